"""One called module and the offloaded tensors in it: staged for the length of its forward.

A forward pre-hook swaps the stored tensors for ones on the compute device; a forward hook, which also runs after an
exception, swaps the stored ones back. So inside the forward the code path is the one of a resident model, and outside
it every parameter is the one that state_dict, LoRA loaders and other extensions have always seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch

from multigpu.multigpu_core.allocation.inventory.stored_size import tensor_bytes
from multigpu.multigpu_core.execution.storage.packed_layout import Layout, copied_to
from multigpu.multigpu_core.execution.storage.tensor_parts import parts_of
from multigpu.multigpu_core.execution.storage.tensor_slots import TensorSlot, slots_by_tensor


class OffloadedModule:
    """The slots of one called module: what they store, and what is in their place while the module runs."""

    def __init__(self, slots: Sequence[TensorSlot]) -> None:
        self.slots = tuple(slots)
        self._depth = 0
        self.look_again()

    def look_again(self) -> None:
        """Take what the slots hold now as what is stored."""
        groups = list(slots_by_tensor(self.slots))
        self._swaps = [
            (slot.holder, slot.attribute, slot.tensor, index) for index, same in enumerate(groups) for slot in same
        ]
        self.tensors: tuple[torch.Tensor, ...] = tuple(same[0].tensor for same in groups)
        """The stored tensors; one that has several names comes once."""
        self._probes = tuple(part for tensor in self.tensors for part in parts_of(tensor))
        self._first_slots = tuple(same[0] for same in groups)
        self.size_bytes = sum(tensor_bytes(tensor) for tensor in self.tensors)
        self.__dict__.pop("layout", None)

    @cached_property
    def layout(self) -> Layout:
        """Where each stored tensor is in a piece of memory that holds all of them."""
        return Layout(self.tensors)

    @property
    def packed_bytes(self) -> int:
        """Bytes of such a piece of memory."""
        return self.layout.size_bytes

    @property
    def device(self) -> torch.device:
        """Where the first of the stored tensors is."""
        return self.tensors[0].device

    @property
    def is_staged(self) -> bool:
        return self._depth > 0

    @property
    def is_as_stored(self) -> bool:
        """Whether each stored tensor is still in its place: other extensions may have put another there."""
        return all(holder[name] is stored for holder, name, stored, _ in self._swaps)

    def versions(self, packed: torch.Tensor | None) -> tuple[int, ...]:
        """How often each stored tensor was changed in place; those in one arena share one count."""
        probes = self._probes[:1] if packed is not None else self._probes
        return tuple(probe._version for probe in probes if not probe.is_inference())

    def enter(self) -> bool:
        """Count a forward that begins; true for the outermost, which is the one to be staged."""
        self._depth += 1
        return self._depth == 1

    def leave(self) -> bool:
        """Count a forward that ends; true for the outermost. Where a hook before ours raised, none had begun."""
        if self._depth == 0:
            return False
        self._depth -= 1
        return self._depth == 0

    def stage(self, staged: Sequence[torch.Tensor]) -> None:
        """Put these in the place of the stored tensors."""
        for holder, name, _, index in self._swaps:
            holder[name] = staged[index]

    def unstage(self) -> None:
        """Put the stored tensors back."""
        for holder, name, stored, _ in self._swaps:
            holder[name] = stored

    def settle(self) -> None:
        """End a forward that was broken off: torch calls no hook after what is no Exception."""
        if self._depth:
            self._depth = 0
            self.unstage()

    def staged_on(self, device: torch.device, *, non_blocking: bool) -> list[torch.Tensor]:
        """Fresh copies on a device, ready to be put in the place of the stored tensors.

        Only devices with streams can be trusted with `non_blocking`: Apple's may read what has been freed since.
        """
        return self._fitting([copied_to(tensor, device, non_blocking=non_blocking) for tensor in self.tensors])

    def staged_in(self, memory: torch.Tensor) -> list[torch.Tensor]:
        """Tensors over staging memory, whatever that holds now, ready to be put in the place of the stored ones."""
        with torch.inference_mode(False), torch.no_grad():  # they outlive the inference in which they are made
            return self._fitting(self.layout.tensors_in(memory))

    def _fitting(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [slot.fitting(tensor) for slot, tensor in zip(self._first_slots, tensors, strict=True)]
