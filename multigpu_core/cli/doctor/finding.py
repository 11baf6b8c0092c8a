"""The result of one check of `multigpu doctor`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from .snapshot import Snapshot


class Severity(str, Enum):
    """How bad a finding is; a problem keeps something from working."""

    NOTE = "note"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """What a check found, and what to do about it."""

    severity: Severity
    what: str
    todo: str


Check = Callable[[Snapshot], Iterator[Finding]]


def problem(what: str, todo: str) -> Finding:
    return Finding(Severity.PROBLEM, what, todo)


def warning(what: str, todo: str) -> Finding:
    return Finding(Severity.WARNING, what, todo)


def note(what: str, todo: str) -> Finding:
    return Finding(Severity.NOTE, what, todo)
