"""Finds work on simulated devices that a real device could run too early: nothing orders it after what it needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from .streams import SimulatedStream


class SimulatedRaceError(RuntimeError):
    """`operator` on one stream touches memory that `other` has under way on another, and nothing orders the two."""

    def __init__(self, operator: str, stream: str, other: str, other_stream: str, device: str) -> None:
        self.operator = operator
        self.other = other
        super().__init__(
            f"{operator} on {stream} and {other} on {other_stream} use the same memory of {device}, at least one of "
            "them writes it, and no event orders them: a real device may run them in any order."
        )


@dataclass(frozen=True)
class _Access:
    begin: int
    end: int
    stream: SimulatedStream
    number: int
    """Of the work in its stream."""
    writes: bool
    operator: str

    def overlaps(self, other: _Access) -> bool:
        return self.begin < other.end and other.begin < self.end

    def is_before(self, stream: SimulatedStream) -> bool:
        """Whether what is queued on a stream now comes after this access."""
        return stream.knows.get(self.stream.stream_id, 0) >= self.number


class AccessLog:
    """The last accesses to each piece of memory, by the address of its storage."""

    def __init__(self) -> None:
        self._accesses: dict[int, list[_Access]] = {}

    def add(self, tensor: Tensor, operator: str, stream: SimulatedStream, number: int, *, writes: bool) -> None:
        """Note that a piece of work reads or writes a tensor.

        Raises:
            SimulatedRaceError: other work on that memory is neither before nor after it.
        """
        storage = tensor.untyped_storage()
        if not storage.nbytes() or not tensor.numel():
            return
        begin = int(tensor.storage_offset()) * tensor.element_size()
        span = sum((size - 1) * int(step) for size, step in zip(tensor.size(), tensor.stride(), strict=True)) + 1
        access = _Access(begin, begin + span * tensor.element_size(), stream, number, writes, operator)
        known = self._accesses.setdefault(storage.data_ptr(), [])
        for other in known:
            if other.overlaps(access) and (writes or other.writes) and not other.is_before(stream):
                raise SimulatedRaceError(operator, stream.name, other.operator, other.stream.name, str(tensor.device))
        known[:] = [*self._still_of_interest(known, access), access]

    def forget(self, address: int) -> None:
        """The storage at an address is gone."""
        self._accesses.pop(address, None)

    def clear(self) -> None:
        self._accesses.clear()

    @staticmethod
    def _still_of_interest(known: list[_Access], access: _Access) -> Iterator[_Access]:
        """All but those that whoever is ordered after the new access is ordered after as well."""
        for other in known:
            is_covered = access.begin <= other.begin and other.end <= access.end
            is_implied = access.writes or (not other.writes and other.stream is access.stream)
            if not (is_covered and is_implied and other.is_before(access.stream)):
                yield other
