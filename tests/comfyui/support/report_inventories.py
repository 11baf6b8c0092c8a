"""Writes, as JSON, what the inventory makes of every architecture: live, and from the header of its file.

Run as a script, because ComfyUI reads the command line when it is imported: ``report_inventories.py COMFYUI WORKDIR``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from architectures import ARCHITECTURES, Builder
from torch import nn

from multigpu.multigpu_core.allocation.inventory.inventory import Inventory
from multigpu.multigpu_core.allocation.inventory.of_file import inventory_of_file
from multigpu.multigpu_core.allocation.inventory.of_module import inventory_of_module

SAFETENSORS_TYPES = {torch.bfloat16: "BF16", torch.float32: "F32", torch.float16: "F16", torch.int64: "I64"}


def import_comfyui(folder: Path) -> None:
    sys.path.insert(0, str(folder))
    sys.argv[1:] = ["--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()


def write_sparse_file(model: nn.Module, path: Path) -> None:
    """The model's checkpoint as savers write it, in the order of the alphabet, without its bytes."""
    header, end = {}, 0
    for name, tensor in sorted(model.state_dict().items()):
        begin, end = end, end + tensor.nbytes
        shape, offsets = list(tensor.shape), [begin, end]
        header[name] = {"dtype": SAFETENSORS_TYPES[tensor.dtype], "shape": shape, "data_offsets": offsets}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def blocks(inventory: Inventory) -> list[list[Any]]:
    return [[block.name, block.kind.value, block.size_bytes] for block in inventory.blocks]


def report(build: Builder, file: Path) -> dict[str, Any]:
    try:
        model = build()
    except (ImportError, AttributeError, TypeError) as error:
        return {"missing": f"{type(error).__name__}: {error}"}
    began = time.process_time()
    live = inventory_of_module(model)
    seconds = time.process_time() - began
    write_sparse_file(model, file)
    return {
        "live": blocks(live),
        "file": blocks(inventory_of_file(file)),
        "seconds": seconds,
        "state_bytes": sum(tensor.nbytes for tensor in model.state_dict().values()),
        "callable": [name for name, module in model.named_modules() if type(module).forward is not nn.Module.forward],
    }


if __name__ == "__main__":
    comfyui, workdir = map(Path, sys.argv[1:3])
    import_comfyui(comfyui)
    found = {name: report(build, workdir / "model.safetensors") for name, build in ARCHITECTURES.items()}
    sys.stdout.write(json.dumps(found))
