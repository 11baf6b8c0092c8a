"""Errors of a device that the host learns of later, as CUDA reports them: at the next synchronisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase


class SimulatedFaultError(RuntimeError):
    """An operator failed on the device, after it was issued. `operator` and `device` say which and where."""

    def __init__(self, operator: str, device: str) -> None:
        self.operator = operator
        self.device = device
        super().__init__(
            f"{device} failed at {operator}, which was issued earlier: a device reports its errors at a later call. "
            "A test asked for this fault with SimulatedMachine.inject_fault."
        )


@dataclass(frozen=True)
class _Fault:
    stream: int
    number: int
    """Of the work in its stream."""
    error: Exception


class Faults:
    """What is going to fail, and what has failed and was not reported yet."""

    def __init__(self) -> None:
        self._wanted: list[tuple[str, str]] = []
        self._unreported: list[_Fault] = []

    def want(self, device: str, operator: str) -> None:
        """Let the next operator of that name on a device fail; ``*`` stands for anything."""
        self._wanted.append((device, operator))

    def issued(self, device: str, operator: str, stream: int, number: int) -> bool:
        """Whether an operator that is issued is to fail; then it is noted as failed."""
        for wanted in self._wanted:
            if wanted[0] == device and fnmatchcase(operator, wanted[1]):
                self._wanted.remove(wanted)
                self.happened(SimulatedFaultError(operator, device), stream, number)
                return True
        return False

    def happened(self, error: Exception, stream: int, number: int) -> None:
        """Note that a piece of work has failed."""
        self._unreported.append(_Fault(stream, number, error))

    def report(self, knowledge: Mapping[int, int]) -> None:
        """Raise the first error of work that is known to be done, once."""
        for fault in self._unreported:
            if knowledge.get(fault.stream, 0) >= fault.number:
                self._unreported.remove(fault)
                raise fault.error

    def clear(self) -> None:
        self._wanted.clear()
        self._unreported.clear()
