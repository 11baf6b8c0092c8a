"""What a file weighs when ComfyUI has loaded it: the one answer for the command line and the editor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from multigpu.multigpu_core.allocation.inventory.as_loaded import LoadedAs, inventory_as_loaded
from multigpu.multigpu_core.allocation.inventory.checkpoint_parts import CheckpointPart
from multigpu.multigpu_core.allocation.inventory.inventory import Inventory
from multigpu.multigpu_core.allocation.inventory.of_file import inventory_of_file

GPU = LoadedAs("cuda:0")


def _file(path: Path, dtype: torch.dtype) -> Path:
    shapes = {f"blocks.{index}.{name}.weight": (8, 8) for index in range(3) for name in ("q", "k")}
    save_file({name: torch.zeros(shape).to(dtype) for name, shape in shapes.items()}, path)
    return path


def _kinds(inventory: Inventory) -> set[tuple[int, str]]:
    return {(block.size_bytes, block.dtype) for block in inventory.blocks}


def test_a_float32_file_is_planned_as_its_half_precision_is(tmp_path: Path) -> None:
    full, half = (
        _file(tmp_path / "full.safetensors", torch.float32),
        _file(tmp_path / "half.safetensors", torch.bfloat16),
    )
    assert inventory_as_loaded([full], GPU) == inventory_of_file(half)
    assert inventory_as_loaded([half], GPU) == inventory_of_file(half)


@pytest.mark.parametrize("chosen", ["fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2"])
def test_fp8_takes_a_byte_a_number(chosen: str, tmp_path: Path) -> None:
    file = _file(tmp_path / "half.safetensors", torch.bfloat16)
    assert {size for size, _ in _kinds(inventory_as_loaded([file], LoadedAs("cuda:0", chosen)))} == {128}


def test_what_is_quantised_already_a_vae_and_what_the_cpu_computes_stay_as_they_are(tmp_path: Path) -> None:
    small = _file(tmp_path / "small.safetensors", torch.float8_e4m3fn)
    full = _file(tmp_path / "full.safetensors", torch.float32)
    vae = tmp_path / "vae.safetensors"
    save_file(
        {"vae.decoder.conv_in.weight": torch.zeros(4), "vae.decoder.mid.block_1.conv1.weight": torch.zeros(4)}, vae
    )
    assert inventory_as_loaded([small], GPU) == inventory_of_file(small)
    assert inventory_as_loaded([full], LoadedAs("cpu")) == inventory_of_file(full)
    part = CheckpointPart.VAE
    assert inventory_as_loaded([vae], LoadedAs("cuda:0", part=part)) == inventory_of_file(vae, part=part)


def test_several_files_are_one_model_with_names_of_their_own(tmp_path: Path) -> None:
    file = _file(tmp_path / "half.safetensors", torch.bfloat16)
    blocks = inventory_as_loaded([file, file], GPU).blocks
    names = [block.name for block in blocks]
    assert len(names) == len(set(names)) == 6 and {name[:2] for name in names} == {"1.", "2."}
    layers = [layer for block in blocks for layer in block.layers]
    assert len({layer.name for layer in layers}) == 12
    assert all(layer.part_of in names and layer.name.startswith(layer.part_of) for layer in layers)
