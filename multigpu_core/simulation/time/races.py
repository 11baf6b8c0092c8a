"""Finds work on simulated devices that a real device could run too early: nothing orders it after what it needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from .host_threads import Knowledge
from .streams import SimulatedStream

HOST = "the host"
REUSE = "the next allocation"
UNPINNING = "unpinning"


class SimulatedRaceError(RuntimeError):
    """`operator` on one stream touches memory that `other` has under way on another, and nothing orders the two.

    `operator` may be an allocation, which gets memory that was freed, or the unpinning of host memory; and instead of a
    stream it may be the host that reads or writes.
    """

    def __init__(self, operator: str, stream: str, other: str, other_stream: str, device: str) -> None:
        self.operator = operator
        self.other = other
        super().__init__(
            f"{operator} on {stream} and {other} on {other_stream} use the same memory of {device}, at least one of "
            f"them writes it, and {_REASONS.get(operator, _NOTHING_ORDERS)}"
        )


_NOTHING_ORDERS = "no event orders them: a real device may run them in any order."
_REASONS = {
    REUSE: "no event orders them: freed memory goes back to the stream that it was allocated on, and is used again "
    "there. Call record_stream, or let that stream wait, before the memory is freed.",
    UNPINNING: "the host has not waited for it: a copy may still be under way. Synchronize before the memory is freed.",
}


@dataclass(frozen=True)
class Access:
    """That some work reads or writes a stretch of bytes."""

    begin: int
    end: int
    stream: SimulatedStream
    number: int
    """Of the work in its stream."""
    writes: bool
    operator: str

    def overlaps(self, begin: int, end: int) -> bool:
        return self.begin < end and begin < self.end

    def is_before(self, knowledge: Knowledge) -> bool:
        """Whether whoever knows that comes after this access."""
        return knowledge.get(self.stream.stream_id, 0) >= self.number


class AccessLog:
    """The last accesses to one piece of memory. `place` is its device, for messages."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._accesses: list[Access] = []

    def add(self, tensor: Tensor, operator: str, stream: SimulatedStream, number: int, *, writes: bool) -> None:
        """Note that a piece of work reads or writes a tensor.

        Raises:
            SimulatedRaceError: other work on that memory is neither before nor after it.
        """
        if not tensor.numel():
            return
        access = Access(*_stretch(tensor), stream, number, writes, operator)
        self._check(access.begin, access.end, operator, stream.name, stream.knows, writes=writes)
        self._accesses[:] = [*self._still_of_interest(access), access]

    def used_by_host(self, tensor: Tensor, operator: str, knowledge: Knowledge, *, writes: bool) -> None:
        """Check that the host may read or write a tensor now: what it has not waited for may be under way.

        Raises:
            SimulatedRaceError: it may not.
        """
        if tensor.numel():
            self._check(*_stretch(tensor), operator, HOST, knowledge, writes=writes)

    def used_again(self, operator: str, where: str, knowledge: Knowledge, ordered: frozenset[int]) -> None:
        """Check that all accesses are over for whoever knows that; those of the streams in `ordered` are.

        Raises:
            SimulatedRaceError: one may be under way.
        """
        for access in self._accesses:
            if access.stream.stream_id not in ordered and not access.is_before(knowledge):
                raise SimulatedRaceError(operator, where, access.operator, access.stream.name, self._place)

    def clear(self) -> None:
        self._accesses.clear()

    def _check(self, begin: int, end: int, operator: str, where: str, knowledge: Knowledge, *, writes: bool) -> None:
        for other in self._accesses:
            if other.overlaps(begin, end) and (writes or other.writes) and not other.is_before(knowledge):
                raise SimulatedRaceError(operator, where, other.operator, other.stream.name, self._place)

    def _still_of_interest(self, access: Access) -> Iterator[Access]:
        """All but those that whoever is ordered after the new access is ordered after as well."""
        for other in self._accesses:
            is_covered = access.begin <= other.begin and other.end <= access.end
            is_implied = access.writes or (not other.writes and other.stream is access.stream)
            if not (is_covered and is_implied and other.is_before(access.stream.knows)):
                yield other


def _stretch(tensor: Tensor) -> tuple[int, int]:
    """The bytes of its storage between a tensor's first number and its last."""
    begin = int(tensor.storage_offset()) * tensor.element_size()
    span = sum((size - 1) * int(step) for size, step in zip(tensor.size(), tensor.stride(), strict=True)) + 1
    return begin, begin + span * tensor.element_size()
