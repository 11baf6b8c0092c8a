"""A damaged file is named when it is loaded, whatever its loader says of it."""

from __future__ import annotations

import importlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from multigpu.multigpu_core.allocation import HeaderError

from ..support.in_process import ComfyUI

NODES = {
    "UNETLoaderMultiGPU": {"weight_dtype": "default", "device": "npu:1"},
    "UNETLoaderDisTorch2MultiGPU": {
        "weight_dtype": "default", "compute_device": "npu:0", "expert_mode_allocations": "npu:0,50%;cpu,50%",
    },
}  # fmt: skip


def safetensors(header: dict[str, object], data_bytes: int) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data_bytes)


def tensor(begin: int, end: int, dtype: str = "U8") -> dict[str, object]:
    return {"dtype": dtype, "shape": [end - begin], "data_offsets": [begin, end]}


def torch_archive_cut_short(folder: Path) -> bytes:
    torch.save({"weight": torch.zeros(1000)}, folder / "whole.pt")
    whole = (folder / "whole.pt").read_bytes()
    return whole[: len(whole) // 2]


DAMAGED = {
    "a hole": safetensors({"a": tensor(0, 8), "b": tensor(9, 17)}, 17),
    "an unknown dtype": safetensors({"a": tensor(0, 8, "F31")}, 8),
    "cut short": safetensors({"a": tensor(0, 8)}, 4),
    "a page": b"<!DOCTYPE html>" + b" " * 100,
}


@pytest.fixture
def models(comfyui: ComfyUI) -> Iterator[Path]:
    """The folder of diffusion models; what a test writes there is removed."""
    folder = Path(importlib.import_module("folder_paths").get_folder_paths("diffusion_models")[0])
    before = set(folder.iterdir())
    yield folder
    for file in set(folder.iterdir()) - before:
        file.unlink()


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("kind", DAMAGED)
def test_the_error_names_the_file_and_what_is_wrong_in_it(comfyui: ComfyUI, models: Path, node: str, kind: str) -> None:
    (models / "broken.safetensors").write_bytes(DAMAGED[kind])
    with pytest.raises(HeaderError, match=r"^broken\.safetensors: ") as caught:
        comfyui.run(node, unet_name="broken.safetensors", **NODES[node])
    assert caught.value.__cause__ is not None, "the loader's own error is there as well"


def test_a_truncated_file_of_pytorch_is_named(comfyui: ComfyUI, models: Path, tmp_path: Path) -> None:
    (models / "broken.pt").write_bytes(torch_archive_cut_short(tmp_path))
    with pytest.raises(HeaderError, match=r"^broken\.pt: archive: has no table of contents"):
        comfyui.run("UNETLoaderMultiGPU", unet_name="broken.pt", **NODES["UNETLoaderMultiGPU"])


def test_the_error_of_a_loader_whose_file_is_sound_goes_through(comfyui: ComfyUI, models: Path) -> None:
    (models / "other.safetensors").write_bytes(safetensors({"a": tensor(0, 8)}, 8))
    with pytest.raises(Exception, match=r"other\.safetensors") as caught:
        comfyui.run("UNETLoaderMultiGPU", unet_name="other.safetensors", **NODES["UNETLoaderMultiGPU"])
    assert not isinstance(caught.value, HeaderError)
