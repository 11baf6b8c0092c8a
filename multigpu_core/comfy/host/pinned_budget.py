"""ComfyUI's own count of pinned memory, and ours in it: both pin from one budget."""

from __future__ import annotations

import sys

from multigpu.multigpu_core.comfy.host.compatibility import model_management as mm


class ComfyUIPins:
    """A `SharedBudget` that reads and writes the two numbers by which ComfyUI limits what it pins.

    ComfyUI adds to its count and subtracts from it, so what we have added stays in it. Near its limit it unpins weights
    of its own models. Where ComfyUI pins nothing, on this device or by its flag, the budget is ours alone.
    """

    def __init__(self) -> None:
        self._told_bytes = 0

    def pinned_by_host_bytes(self) -> int:
        return max(0, self._counted_bytes() - self._told_bytes)

    def make_room(self, size_bytes: int) -> bool:
        if size_bytes <= self._free_bytes():
            return True
        unpin_idle = getattr(mm, "ensure_pin_registerable", None)
        if unpin_idle is not None:
            unpin_idle(size_bytes, evict_active=False)
        return size_bytes <= self._free_bytes()

    def tell(self, pinned_bytes: int) -> None:
        if hasattr(mm, "TOTAL_PINNED_MEMORY"):
            mm.TOTAL_PINNED_MEMORY += pinned_bytes - self._told_bytes
            self._told_bytes = pinned_bytes

    @staticmethod
    def _counted_bytes() -> int:
        return int(getattr(mm, "TOTAL_PINNED_MEMORY", 0))

    def _free_bytes(self) -> int:
        limit_bytes = getattr(mm, "MAX_PINNED_MEMORY", -1)
        return int(limit_bytes - self._counted_bytes()) if limit_bytes > 0 else sys.maxsize
