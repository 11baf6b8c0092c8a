"""For all unit tests: work counted in steps, and nothing that a test sets up for the whole process outlives it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
import structlog

Steps = Callable[[Callable[[], object]], int]


@pytest.fixture(autouse=True)
def process_as_it_was() -> Iterator[None]:
    """Commands that run in this process configure the log, and what SIGTERM does."""
    terminated, log_is_configured = signal.getsignal(signal.SIGTERM), structlog.is_configured()
    yield
    signal.signal(signal.SIGTERM, terminated)
    if not log_is_configured:
        structlog.reset_defaults()


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
