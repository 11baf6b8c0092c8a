"""Errors in an allocation request, worded for the person who wrote it."""

from __future__ import annotations

from .amounts import readable_bytes

ALLOCATION_STRING = "Allocation string"
_CONTEXT = 60
"""Characters shown on each side of a fault in a very long string."""


class AllocationError(ValueError):
    """An allocation string, or another input of a split node, that is invalid or names a missing device.

    `text` is the whole of it, `position` the span (start, end) of the fault in it, `reason` what is wrong,
    `suggestion` what would be right (empty where nothing can be guessed), and `what` which of the wishes it is.
    """

    def __init__(
        self, text: str, position: tuple[int, int], reason: str, suggestion: str = "", what: str = ALLOCATION_STRING
    ) -> None:
        self.what = what
        self.text = text
        self.position = position
        self.reason = reason
        self.suggestion = suggestion
        lines = [f"{what} {text!r}:" if len(text) <= 2 * _CONTEXT else f"{what}:"]
        lines += [f"    {line}" for line in _marked(text, position)]
        lines += [reason] + ([suggestion] if suggestion else [])
        super().__init__("\n".join(lines))


class PlanError(ValueError):
    """A plan that cannot fit, refused before anything moves.

    `device` has `free_bytes` for weights where `needed_bytes` are asked of it; `way_out` says what to do.
    """

    def __init__(self, device: str, needed_bytes: int, free_bytes: int, way_out: str) -> None:
        self.device = device
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes
        self.way_out = way_out
        super().__init__(
            f"{device} would have to store {readable_bytes(needed_bytes)} of weights "
            f"but has only {readable_bytes(free_bytes)} free for them. {way_out}"
        )


def _marked(text: str, position: tuple[int, int]) -> tuple[str, str]:
    """The string, cut around the fault if it is very long, and a line of carets under the fault."""
    start, end = position
    first, last = max(0, start - _CONTEXT), min(len(text), start + 2 * _CONTEXT)
    shown = "".join(letter if letter.isprintable() else " " for letter in text[first:last])
    before = "…" if first else ""
    after = "…" if last < len(text) else ""
    carets = "^" * max(1, min(end, last) - start)
    return before + shown + after, " " * (len(before) + start - first) + carets
