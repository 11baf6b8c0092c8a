"""Store streamed weights so that each needs one copy: packed, in pinned host memory or on a donor card."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from multigpu.multigpu_core.devices import DeviceRegistry

from .packed_layout import Layout, pack, packed_memory
from .pinned_memory import PinnedMemory
from .tensor_parts import parts_of, with_parts
from .tensor_slots import TensorSlot, put_all, slots_by_tensor


class PackedStorage:
    """Packs for streaming to one compute device, which has streams."""

    def __init__(self, registry: DeviceRegistry, compute: str, locked: PinnedMemory) -> None:
        self._registry = registry
        self._compute = compute
        self._locked = locked

    def store(self, slots: Sequence[TensorSlot], device: str) -> bool:
        """Pack the tensors of some slots into fresh memory of a device; false, with nothing moved, where it cannot be.

        In host memory only what is pinned is packed: where that cannot be had, weights stay mapped to their file.
        """
        groups = list(slots_by_tensor(slots))
        tensors = [same[0].tensor for same in groups]
        if any(tensor.is_meta for tensor in tensors):
            return False
        if self._is_stored(tensors, device) or self._is_pinned_again(tensors, device):
            return True
        with torch.inference_mode(False), torch.no_grad():  # weights outlive the inference in which they are loaded
            memory = self._memory(Layout(tensors, closes_gaps=True).size_bytes, device)
            if memory is None:
                return False
            for same, packed in zip(groups, pack(tensors, memory), strict=True):
                put_all(same, packed)
        return True

    def is_done(self, slots: Sequence[TensorSlot], device: str) -> bool:
        """Whether the tensors of some slots, which are on a device, are packed there, or cannot be."""
        tensors = [same[0].tensor for same in slots_by_tensor(slots)]
        size_bytes = Layout(tensors, closes_gaps=True).size_bytes
        if not size_bytes or self._is_stored(tensors, device):
            return True
        return device == "cpu" and not self._locked.has_room(size_bytes)

    def unpin(self, slots: Sequence[TensorSlot]) -> None:
        """Leave what lies in pinned host memory in ordinary memory: in place, or by copying where that fails.

        No copy from it may be under way.
        """
        for same in slots_by_tensor(slots):
            tensor = same[0].tensor
            parts = parts_of(tensor)
            pinned = [part for part in parts if self._locked.holds(part)]
            if all(self._locked.unlock(part) for part in pinned if self._locked.holds(part)):
                continue
            with torch.inference_mode(False), torch.no_grad():
                put_all(same, with_parts(tensor, tuple(part.clone() for part in parts)))

    def _is_pinned_again(self, tensors: Sequence[torch.Tensor], device: str) -> bool:
        memory = packed_memory(tensors) if device == "cpu" else None
        return memory is not None and memory.device.type == "cpu" and self._locked.lock(memory)

    def _is_stored(self, tensors: Sequence[torch.Tensor], device: str) -> bool:
        memory = packed_memory(tensors)
        if memory is None or memory.device != self._registry.torch_device(device):
            return False
        return device != "cpu" or self._locked.holds(memory)

    def _memory(self, size_bytes: int, device: str) -> torch.Tensor | None:
        if device == "cpu":
            return self._locked.allocate(size_bytes, self._compute)
        return torch.empty(size_bytes, dtype=torch.uint8, device=self._registry.torch_device(device))
