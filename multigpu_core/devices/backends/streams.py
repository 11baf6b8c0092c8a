"""What streams of any family of devices have in common: torch.cuda's, torch.xpu's and torch.npu's are shaped alike."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol


class DeviceEvent(Protocol):
    """A point in a stream's work."""

    def record(self, stream: Any) -> None:
        """Mark what the stream was given so far."""

    def synchronize(self) -> None:
        """Let the host wait until the work before the mark is done."""

    def query(self) -> bool:
        """Whether that work is done, without waiting."""

    def elapsed_time(self, end_event: Any) -> float:
        """Milliseconds from this mark to another; both events were made with `enable_timing`."""


class DeviceStream(Protocol):
    """One queue of a device's work."""

    @property
    def device(self) -> Any:
        """The `torch.device` whose queue it is."""

    def wait_event(self, event: Any) -> None:
        """Let what is queued from now on wait until the event's mark is reached; the host goes on."""

    def wait_stream(self, stream: Any) -> None:
        """Let what is queued from now on wait for all that another stream was given so far."""

    def synchronize(self) -> None:
        """Let the host wait until all is done."""


class Streams(Protocol):
    """The part of ``torch.<type>`` that makes and chooses streams."""

    Stream: Callable[..., DeviceStream]
    """``Stream(device=…)`` is a new queue of a device, beside its default one."""
    Event: Callable[..., DeviceEvent]
    """``Event()``, or ``Event(enable_timing=True)``."""

    def current_stream(self, device: Any = None) -> DeviceStream:
        """The queue that this thread's work for a device goes to."""

    def default_stream(self, device: Any = None) -> DeviceStream:
        """The queue that is a device's current one until another is chosen."""

    def stream(self, stream: Any) -> AbstractContextManager[Any]:
        """Send this thread's work for the stream's device to that stream, within a `with` block."""
