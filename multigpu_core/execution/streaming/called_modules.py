"""Which modules of a model are really called: a hook on any other would never run."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from multigpu.multigpu_core.execution.storage.tensor_slots import TensorSlot


def called_modules(root: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules at or under `root` that are called: not containers, whose items may be called singly."""
    is_container = isinstance(root, (nn.Sequential, nn.ModuleList, nn.ModuleDict))
    has_forward = type(root).forward is not nn.Module.forward
    if has_forward and not is_container:
        yield root
        return
    for child in root.children():
        yield from called_modules(child)


def slots_by_called_module(
    root: nn.Module | None, slots: tuple[TensorSlot, ...]
) -> Iterator[tuple[nn.Module, tuple[TensorSlot, ...]]]:
    """Share a block's slots among the outermost modules under `root` that are called as a whole.

    Without a root (the block is no module of its own) each slot's owner is such a module.
    """
    outermost: dict[int, nn.Module] = {}
    for called in called_modules(root) if root is not None else ():
        for inner in called.modules():
            outermost.setdefault(id(inner), called)
    grouped: dict[int, tuple[nn.Module, list[TensorSlot]]] = {}
    for slot in slots:
        called = outermost.get(id(slot.owner), slot.owner)
        grouped.setdefault(id(called), (called, []))[1].append(slot)
    for called, of_called in grouped.values():
        yield called, tuple(of_called)
