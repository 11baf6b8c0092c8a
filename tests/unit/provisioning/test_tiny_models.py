"""Tiny models have the names, shapes and dtypes of real files, and the same values everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from multigpu.multigpu_core.provisioning import tiny_checkpoint, tiny_models
from multigpu.multigpu_core.provisioning.tiny_models import FluxShape, WanShape


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    shape = FluxShape(double_blocks=1, single_blocks=1)
    first, again, other = (tiny_models.flux_weights(shape, seed) for seed in (7, 7, 8))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["img_in.weight"], other["img_in.weight"])


def test_a_flux_has_the_blocks_and_widths_that_its_shape_says() -> None:
    weights = tiny_models.flux_weights(FluxShape(double_blocks=2, single_blocks=3, hidden_size=256, context_dim=768))
    assert weights["double_blocks.1.img_attn.qkv.weight"].shape == (768, 256)
    assert weights["single_blocks.2.linear1.weight"].shape == (7 * 256, 256)
    assert weights["txt_in.weight"].shape == (256, 768)
    assert not any(name.startswith(("double_blocks.2", "single_blocks.3")) for name in weights)


def test_a_wan_has_the_blocks_that_its_shape_says() -> None:
    weights = tiny_models.wan_weights(WanShape(blocks=2))
    assert weights["patch_embedding.weight"].shape == (128, 16, 1, 2, 2)
    assert {name.split(".")[1] for name in weights if name.startswith("blocks.")} == {"0", "1"}


def test_a_lora_patches_the_matrices_that_are_asked_for_with_fitting_shapes() -> None:
    base = tiny_models.flux_weights(FluxShape(double_blocks=1, single_blocks=2))
    lora = tiny_models.lora_weights(base, targets=["single_blocks.1."], rank=2)
    layers = {name.rsplit(".", 2)[0] for name in lora if name.endswith("lora_up.weight")}
    assert layers == {f"diffusion_model.single_blocks.1.{name}" for name in ("modulation.lin", "linear1", "linear2")}
    for layer in layers:
        change = lora[f"{layer}.lora_up.weight"] @ lora[f"{layer}.lora_down.weight"]
        assert change.shape == base[f"{layer.removeprefix('diffusion_model.')}.weight"].shape
        assert torch.linalg.matrix_rank(change) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_files_hold_the_weights_in_the_dtype_asked_for(tmp_path: Path, dtype: torch.dtype) -> None:
    weights = tiny_models.vae_weights()
    file = tiny_models.write(tmp_path / "new folder" / "vae.safetensors", weights, dtype)
    with safe_open(file, framework="pt") as opened:
        stored = opened.get_tensor("taesd_decoder.1.weight")
    assert stored.dtype == dtype
    assert torch.equal(stored.float(), weights["taesd_decoder.1.weight"].to(dtype).float())


def test_a_stable_diffusion_3_has_a_last_block_without_an_answer_to_the_prompt() -> None:
    weights = tiny_checkpoint.sd3_weights(blocks=2)
    assert weights["x_embedder.proj.weight"].shape[0] == 128
    assert "joint_blocks.0.context_block.attn.proj.weight" in weights
    assert "joint_blocks.1.context_block.attn.proj.weight" not in weights
