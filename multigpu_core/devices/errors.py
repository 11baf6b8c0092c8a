"""The error for a device name that cannot be used."""

from __future__ import annotations


class DeviceError(ValueError):
    """A text names no device that can be used here.

    `text` is what was written, `nearest` the valid name closest to it (None where nothing is close), `available` the
    names that would be accepted, and `reasons` sentences that say why the device is not among them and what shows it.
    """

    def __init__(
        self, text: str, available: tuple[str, ...], nearest: str | None = None, reasons: tuple[str, ...] = ()
    ) -> None:
        self.text = text
        self.available = available
        self.nearest = nearest
        self.reasons = reasons
        question = f" (did you mean {nearest!r}?)" if nearest else ""
        there_are = f"Available devices: {', '.join(available) or 'none'}."
        super().__init__(" ".join([f"There is no device {text!r}{question}.", there_are, *reasons]))
