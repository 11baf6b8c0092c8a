"""Operators and copies that run later than they are issued: what is known of them at once, and what is left to run.

What an operator returns is known only when it runs, but its caller needs the shapes at once. So an operator is
rehearsed when it is issued: it runs on zeros in the place of its arguments, and its results, filled with poison, go to
the caller. What is left to run computes from the arguments' memory as it is then, and writes what it gets over the
poison. An operator whose shapes follow from values (`nonzero`), or that fails on zeros, waits for its stream, as CUDA's
do.

Random operators use the numbers that were due when they were issued, and numbers of the host (scalars, indices) are
those at that time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from multigpu.multigpu_core.simulation.deferral import POISON, poison
from multigpu.multigpu_core.simulation.host_call import HostCall, Results
from multigpu.multigpu_core.simulation.memory.allocator import Blocks
from multigpu.multigpu_core.simulation.tensors import bytes_of
from multigpu.multigpu_core.simulation.timeline import Run, tensors_in

_VALUES_DECIDE = frozenset({torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output})
_INDEXING = frozenset({torch.ops.aten.index, torch.ops.aten._unsafe_index})
_MASKS = frozenset({torch.bool, torch.uint8})


class Rehearsal:
    """An operator that was issued and has still to run."""

    def __init__(self, call: HostCall, results: Any, real: HostCall, generator: torch.Generator | None) -> None:
        self._call = call
        self._results = results
        self._real = real
        self._generator = generator

    def place(self, place: Callable[[Tensor], Tensor], blocks: Blocks) -> tuple[Any, Run]:
        """What the caller gets, new tensors made by `place`, and what is left to run."""
        new: set[int] = set()

        def place_poisoned(result: Tensor) -> Tensor:
            bytes_of(result).fill_(POISON)
            new.add(id(result))
            return place(result)

        placed = Results(self._call, place_poisoned).of(self._results)
        pairs = zip(tensors_in((self._results,)), tensors_in((placed,)), strict=True)
        outputs = [(index, lasting(ours, blocks)) for index, (host, ours) in enumerate(pairs) if id(host) in new]

        real, generator = self._real, self._generator
        real.stand_ins.clear()  # what is left to run keeps memory alive, and not the tensors that were in it

        def run() -> None:
            values = list(tensors_in((real.run(generator),)))
            for index, output in outputs:
                output.copy_(values[index])

        return placed, run


def rehearse(
    operator: torch._ops.OpOverload,
    args: Sequence[Any],
    kwargs: dict[str, Any],
    generator: torch.Generator | None,
    blocks: Blocks,
) -> Rehearsal | None:
    """Issue an operator; None where its values are needed at once."""
    if _values_decide(operator, args, kwargs):
        return None
    before = generator.get_state() if generator is not None else torch.empty(0)
    call = HostCall(operator, args, kwargs, _Zeros())
    try:
        results = call.run(generator)
        is_known = not call.resized
    except Exception:  # the values may be to blame, and if not, it fails again
        is_known = False
    if not is_known:
        if generator is not None:
            generator.set_state(before)
        return None
    replayed = torch.Generator().set_state(before) if generator is not None else None
    return Rehearsal(call, results, HostCall(operator, args, kwargs, partial(lasting, blocks=blocks)), replayed)


def copy_later(destination: Tensor, source: Tensor, blocks: Blocks) -> tuple[Run, Run | None]:
    """What is left to run of a copy: its end, and its beginning, after which the destination holds nothing of use."""
    block = blocks.of(destination)
    into = destination.data if block is None else block.like(destination)
    values = lasting(source, blocks)

    def end() -> None:
        into.copy_(values)

    overlaps = into.untyped_storage().data_ptr() == values.untyped_storage().data_ptr()
    return end, None if overlaps else (lambda: poison(into))


def lasting(tensor: Tensor, blocks: Blocks) -> Tensor:
    """A tensor on the host that shows what `tensor` will hold, also when that is freed.

    What lies in ordinary host memory is taken as it is now.
    """
    block = blocks.of(tensor)
    if block is not None:
        return block.like(tensor)
    return tensor.detach().clone() if tensor.device.type == "cpu" else torch.empty(tensor.size(), dtype=tensor.dtype)


class _Zeros:
    """Zeros in the place of simulated tensors, which share their storage where those do."""

    def __init__(self) -> None:
        self._storages: dict[int, torch.UntypedStorage] = {}

    def __call__(self, tensor: Tensor) -> Tensor:
        if tensor.device.type == "cpu":
            return tensor
        storage = tensor.untyped_storage()
        size = storage.nbytes()
        if not size:
            return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype)
        address = storage.data_ptr()
        if address not in self._storages:
            self._storages[address] = torch.zeros(size, dtype=torch.uint8).untyped_storage()
        stand_in = torch.empty(0, dtype=tensor.dtype)
        return stand_in.set_(self._storages[address], tensor.storage_offset(), tensor.size(), tensor.stride())


def _values_decide(operator: torch._ops.OpOverload, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    packet = operator.overloadpacket
    if packet in _INDEXING or packet.__name__.startswith(("index_put", "_index_put")):
        return any(index.dtype in _MASKS for index in tensors_in((args[1],)))
    return bool(_VALUES_DECIDE.intersection(operator.tags))
