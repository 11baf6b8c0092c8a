"""For all unit tests: work counted in steps, which are the same on every machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

Steps = Callable[[Callable[[], object]], int]


@pytest.fixture
def steps_of() -> Steps:
    """Counts the lines of Python that a call runs: twice the input may cost twice the steps, and not four times."""

    def steps(call: Callable[[], object]) -> int:
        count = 0

        def trace(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal count
            count += 1
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            call()
        finally:
            sys.settrace(before)
        return count

    return steps
