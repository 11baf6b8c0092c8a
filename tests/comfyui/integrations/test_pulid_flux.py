"""ComfyUI-PuLID-Flux: what Apply hangs on a Flux model is on that model's device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ..support.in_process import ComfyUI, variants_of
from ..support.outputs import picture, sampled
from ..support.packs_at_hand import stand_in

FLUX = {"unet_name": "flux.safetensors", "weight_dtype": "default"}
PLACES = {
    "on another device": ("UNETLoaderMultiGPU", {"device": "npu:1"}),
    "split": (
        "UNETLoaderDisTorch2MultiGPU",
        {"compute_device": "npu:1", "expert_mode_allocations": "npu:1,30%;npu:2,30%;cpu,40%"},
    ),
}


@pytest.fixture(scope="module", autouse=True)
def pack(started_comfyui: ComfyUI) -> None:
    variants_of(started_comfyui, stand_in("pulid_flux"), "pulid_flux")


def _with_face(comfyui: ComfyUI, loader: str, device: dict[str, Any], is_loaded: bool) -> Tensor:
    (model,) = comfyui.run(loader, **FLUX, **device)
    plain = sampled(comfyui, model) if is_loaded else None
    (pulid,) = comfyui.run("PulidFluxModelLoader", pulid_file="made up")
    faces = {"pulid_flux": pulid, "eva_clip": None, "face_analysis": None, "image": picture()}
    (changed,) = comfyui.run("ApplyPulidFlux", model=model, weight=0.9, **faces)
    made = sampled(comfyui, changed)
    assert plain is None or not torch.equal(made, plain)
    assert torch.equal(sampled(comfyui, changed), made)
    return made.cpu()


@pytest.mark.parametrize("is_loaded", [True, False], ids=["loaded before", "not loaded yet"])
@pytest.mark.parametrize("place", PLACES)
def test_the_picture_is_that_of_one_device(comfyui: ComfyUI, place: str, is_loaded: bool) -> None:
    expected = _with_face(comfyui, "UNETLoader", {}, is_loaded)
    comfyui.reset()
    assert torch.equal(_with_face(comfyui, *PLACES[place], is_loaded), expected)
