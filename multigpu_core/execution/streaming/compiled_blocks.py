"""Find out which blocks are compiled: a compiled block is streamed as a whole, because a hook inside would break it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from torch import nn

from multigpu.multigpu_core.execution.storage.tensor_slots import TensorSlot

ORIGINAL = "_orig_mod"
"""Under that name a compiled module has the one that it was made from."""

Slots = tuple[TensorSlot, ...]


def compiled_blocks(root: nn.Module, names: Iterable[str]) -> frozenset[str]:
    """Those of the blocks that are compiled now, by themselves or within a part of the model."""
    return frozenset(name for name in names if any(map(_is_compiled, _way_to(root, name))))


def in_units(slots: Mapping[str, Slots], blocks: Mapping[str, str], whole: frozenset[str]) -> dict[str, Slots]:
    """The slots of parts of a model by what is streamed at once: a part, or all of its block where that is `whole`.

    `blocks` has the block of each part.
    """
    units: dict[str, Slots] = {}
    for name, of_part in slots.items():
        unit = blocks[name] if blocks[name] in whole else name
        units[unit] = units.get(unit, ()) + of_part
    return units


def _way_to(root: nn.Module, name: str) -> Iterator[nn.Module]:
    module: nn.Module | None = root
    for part in name.split("."):
        module = getattr(module, part, None)
        if not isinstance(module, nn.Module):
            return
        yield module


def _is_compiled(module: nn.Module) -> bool:
    """Whether `module.compile()` was called, or it is what `torch.compile(module)` returns."""
    return module._compiled_call_impl is not None or ORIGINAL in module._modules
