"""Small made-up weights for the real packs' own model classes, and a stop where a pack would download files."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from multigpu.multigpu_core.provisioning import tiny_models

from .in_process import ComfyUI, variants_of
from .packs_at_hand import import_pack, real_pack


class DownloadWantedError(Exception):
    """A pack asks a hub for files; `devices` are where a model would compute and wait at that moment."""

    def __init__(self, devices: tuple[str, str]) -> None:
        self.devices = devices
        super().__init__(f"a download is wanted, with {devices}")


def stop_at_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every way to a hub raise `DownloadWantedError`."""
    mm = importlib.import_module("comfy.model_management")

    def stop(*args: Any, **kwargs: Any) -> Any:
        raise DownloadWantedError((str(mm.get_torch_device()), str(mm.unet_offload_device())))

    hub = importlib.import_module("huggingface_hub")
    for name in ("snapshot_download", "hf_hub_download"):
        original = getattr(hub, name)
        for module in list(sys.modules.values()):  # packs import the function itself
            if getattr(module, "__dict__", {}).get(name) is original:
                monkeypatch.setattr(module, name, stop)


def devices_at_download(run: Callable[[], Any]) -> tuple[str, str]:
    """Where a model would compute and wait when its loader comes to the download."""
    with pytest.raises(DownloadWantedError) as caught:
        run()
    return caught.value.devices


def load_pack(comfyui: ComfyUI, pack: str, integration: str) -> None:
    """Load a real pack as ComfyUI does, and our variants of its nodes."""
    folder = real_pack(pack)
    import_pack(comfyui, folder)
    variants_of(comfyui, folder, integration)


def write(comfyui: ComfyUI, kind: str, file: str, weights: dict[str, torch.Tensor]) -> str:
    """Write a model file where ComfyUI looks for its kind; returns its name."""
    tiny_models.write(comfyui.models / kind / file, weights)
    return file


def module_of(comfyui: ComfyUI, node_id: str) -> ModuleType:
    """The module of the pack in which a node class stands."""
    return importlib.import_module(comfyui.nodes.NODE_CLASS_MAPPINGS[node_id].__module__)


def smaller(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, **sizes: Any) -> Callable[..., Any]:
    """Let a pack build one of its model classes with other sizes than it would; the classes are its own."""
    original = getattr(module, name)

    def build(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **{**kwargs, **sizes})

    monkeypatch.setattr(module, name, build)
    return build


def weights_of(module: nn.Module, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Made-up weights by the names of a model's own; norms and the like stay what they are."""
    generator = torch.Generator().manual_seed(0)
    made = {}
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            value = value if value.dim() < 2 else torch.randn(value.shape, generator=generator) * 0.05
            value = value.to(dtype)
        made[name] = value.contiguous().clone()
    return made


def in_use(*modules: nn.Module) -> set[str]:
    """The devices of all parameters."""
    return {str(parameter.device) for module in modules for parameter in module.parameters()}
