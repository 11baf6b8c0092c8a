"""For unit tests: what a test sets up for the whole process does not reach the next one."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def process_as_it_was() -> Iterator[None]:
    """Commands that run in this process configure the log, and what SIGTERM does."""
    terminated, log_is_configured = signal.getsignal(signal.SIGTERM), structlog.is_configured()
    yield
    signal.signal(signal.SIGTERM, terminated)
    if not log_is_configured:
        structlog.reset_defaults()
