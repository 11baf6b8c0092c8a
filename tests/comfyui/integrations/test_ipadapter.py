"""ComfyUI_IPAdapter_plus: its adapter is made where the model computes that it is applied to."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from ..support.in_process import ComfyUI, variants_of
from ..support.outputs import picture
from ..support.packs_at_hand import assert_no_drift, stand_in
from ..support.tiny_unet import UNET, small_unet, unet_picture

PLACES = {
    "on another device": ("UNETLoaderMultiGPU", {"device": "npu:1"}),
    "split": (
        "UNETLoaderDisTorch2MultiGPU",
        {"compute_device": "npu:1", "expert_mode_allocations": "npu:1,30%;npu:2,30%;cpu,40%"},
    ),
}
VISION = {"clip_name": "vision.safetensors"}


@pytest.fixture(scope="module", autouse=True)
def pack(started_comfyui: ComfyUI) -> Iterator[None]:
    variants_of(started_comfyui, stand_in("ipadapter"), "ipadapter")
    with small_unet(started_comfyui):
        yield


def _adapted(comfyui: ComfyUI, model: Any, vision: Any) -> Any:
    inputs = {"ipadapter": {}, "image": picture(), "clip_vision": vision, "weight": 0.8}
    return comfyui.run("IPAdapterAdvanced", model=model, **inputs)[0]


def _held_by(adapted: Any) -> set[str]:
    """The devices of all that the patches hold."""
    patches = adapted.model_options["transformer_options"]["patches_replace"]["attn2"].values()
    return {str(tensor.device) for patch in patches for tensor in _tensors(patch.kwargs[0])}


def _tensors(kwargs: dict[str, Any]) -> list[Tensor]:
    return [*kwargs["ipadapter"].parameters(), kwargs["cond"], kwargs["cond_alt"][3]]


@pytest.mark.parametrize("gpu_only", [False, True])
def test_with_clip_vision_on_a_third_card_the_picture_is_that_of_one_device(
    comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch, gpu_only: bool
) -> None:
    """With --gpu-only ComfyUI hands what CLIP vision saw to other nodes on its own device, not on the cpu."""
    if gpu_only:
        monkeypatch.setattr(importlib.import_module("comfy.cli_args").args, "gpu_only", True)
    (vision,) = comfyui.run("CLIPVisionLoader", **VISION)
    own = _adapted(comfyui, comfyui.run("UNETLoader", **UNET)[0], vision)
    assert _held_by(own) == {"npu:0"}, "with a model of ComfyUI's own the pack chooses as ever"
    expected = unet_picture(comfyui, own)
    del own, vision
    comfyui.reset()
    (vision,) = comfyui.run("CLIPVisionLoaderMultiGPU", device="npu:2", **VISION)
    for place, (loader, device) in PLACES.items():
        adapted = _adapted(comfyui, comfyui.run(loader, **UNET, **device)[0], vision)
        assert _held_by(adapted) == {"npu:1"}
        assert torch.equal(unet_picture(comfyui, adapted), expected), place


def test_nothing_is_copied_for_a_sampling_where_the_pack_follows(
    comfyui: ComfyUI, caplog: pytest.LogCaptureFixture
) -> None:
    (vision,) = comfyui.run("CLIPVisionLoaderMultiGPU", device="npu:2", **VISION)
    loader, device = PLACES["on another device"]
    unet_picture(comfyui, _adapted(comfyui, comfyui.run(loader, **UNET, **device)[0], vision))
    assert "for this sampling" not in caplog.text


@pytest.mark.parametrize("gpu_only", [False, True])
def test_what_clip_vision_saw_reaches_an_unclip_model_on_any_device(
    comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch, gpu_only: bool
) -> None:
    monkeypatch.setattr(importlib.import_module("comfy.cli_args").args, "gpu_only", gpu_only)
    (vision,) = comfyui.run("CLIPVisionLoaderMultiGPU", device="npu:2", **VISION)
    seen = vision.encode_image(picture())
    assert str(seen.image_embeds.device) == ("npu:0" if gpu_only else "cpu"), "where ComfyUI's own loader would put it"
    asked: list[str] = []

    def augment(embeds: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
        asked.append(str(embeds.device))
        return embeds.reshape(1, -1), torch.zeros(1, 4, device=embeds.device)

    unclip = importlib.import_module("comfy.model_base").unclip_adm
    conditions = [{"clip_vision_output": seen, "strength": 1.0, "noise_augmentation": 0.0}]
    augment.max_noise_level = 1000  # type: ignore[attr-defined]
    made = unclip(conditions, torch.device("npu:1"), augment)
    assert asked == ["npu:1"] and str(made.device) == "npu:1"


def test_the_stand_in_is_like_the_real_pack(comfyui: ComfyUI) -> None:
    assert_no_drift(comfyui, "ipadapter", "ComfyUI_IPAdapter_plus")
