"""Compares architectures: the inventory of a real size with its file, and a small model split with the whole one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import _lru_cache_wrapper
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from multigpu.multigpu_core.allocation import (
    AllocationPlan,
    BlockKind,
    Inventory,
    Strategy,
    inventory_of_file,
    inventory_of_module,
    parse_expert,
    plan_allocation,
)
from multigpu.multigpu_core.devices import default_registry
from multigpu.multigpu_core.execution import Distribution, PinnedMemory

from .architectures import Architecture, Draw

COMPUTE = "npu:0"
SAFETENSORS_TYPES = {
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3",
}


@dataclass(frozen=True)
class Report:
    """An architecture at its real sizes: its blocks live and from the header of its file."""

    live: Inventory
    file: Inventory
    parameters: frozenset[str]
    state_bytes: int
    callable: frozenset[str]

    @property
    def movable_share(self) -> float:
        return 1 - self.live.head_bytes / self.live.total_bytes


def report(architecture: Architecture, file: Path) -> Report:
    """Build an architecture at its real sizes, without weights. `file` is written and removed."""
    model = architecture.real()
    state = model.state_dict()
    write_sparse_file(state, file)
    try:
        of_file = inventory_of_file(file)
    finally:
        file.unlink()
    named = dict(model.named_modules())
    return Report(
        inventory_of_module(model),
        of_file,
        frozenset(state),
        sum(tensor.nbytes for tensor in state.values()),
        frozenset(name for name, module in named.items() if type(module).forward is not nn.Module.forward),
    )


def write_sparse_file(state: dict[str, Tensor], path: Path) -> None:
    """A checkpoint as savers write it, in the order of the alphabet, without its bytes."""
    header, end = {}, 0
    for name, tensor in sorted(state.items()):
        begin, end = end, end + tensor.nbytes
        shape, offsets = list(tensor.shape), [begin, end]
        header[name] = {"dtype": SAFETENSORS_TYPES[tensor.dtype], "shape": shape, "data_offsets": offsets}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def movable(inventory: Inventory) -> list[str]:
    return [block.name for block in inventory.blocks if block.kind is not BlockKind.HEAD]


class Trial:
    """A small model of one architecture on the compute device, and what it computes there as a whole."""

    def __init__(self, architecture: Architecture) -> None:
        assert architecture.inputs is not None
        self._inputs = architecture.inputs
        self.model = architecture.tiny().to(COMPUTE)
        self.inventory = inventory_of_module(self.model)
        self.called: list[str] = []
        """The blocks that may move, as the whole model calls them, or parts of them, for the first time."""
        handles = [handle for name in movable(self.inventory) for handle in self._note(name)]
        self.expected = self.output()
        for handle in handles:
            handle.remove()

    def output(self) -> list[Tensor]:
        inputs = tree_map(lambda value: value.to(COMPUTE) if isinstance(value, Tensor) else value, self._drawn())
        model: Any = getattr(self.model, "diffusion_model", self.model)
        if hasattr(model, "clear_kv_cache"):  # or else it computes but a part of the second forward
            model.clear_kv_cache()
        with torch.inference_mode():
            result = model(**inputs)
        return [value.cpu() for value in tree_leaves(result) if isinstance(value, Tensor)]

    def close(self) -> None:
        """Empty what ComfyUI's classes cache of their models for as long as the process lives: tensors on a device."""
        for module in self.model.modules():
            for value in vars(type(module)).values():
                if isinstance(value, _lru_cache_wrapper):
                    value.cache_clear()

    @contextmanager
    def split(self, expert: str, strategy: Strategy) -> Iterator[AllocationPlan]:
        registry = default_registry()
        names = registry.names()
        request = parse_expert(expert, compute_device=COMPUTE, known=names, strategy=strategy)
        plan = plan_allocation(self.inventory, request, [registry.info(name) for name in names])
        distribution = Distribution(self.model, self.inventory, registry, PinnedMemory(registry, 10**9))
        distribution.begin(plan)
        for placement in plan.placements:
            distribution.place(placement.block, placement.device)
        distribution.serve({placement.block.name: placement.device for placement in plan.placements})
        try:
            yield plan
        finally:
            distribution.release()

    def _drawn(self) -> dict[str, Any]:
        return self._inputs(Draw())

    def _note(self, name: str) -> list[Any]:
        def note(_module: nn.Module, _args: Any) -> None:
            if name not in self.called:
                self.called.append(name)

        return [part.register_forward_pre_hook(note) for part in self.model.get_submodule(name).modules()]
