"""Several tensors one behind the other in one piece of memory, so that all of them travel in one copy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from multigpu.multigpu_core.allocation.staging_ring import aligned

from .tensor_parts import parts_of, with_parts


class Layout:
    """Where each of some tensors lies within `size_bytes` of memory; any memory of that size can be laid out so.

    Strides are kept: operators choose their kernels by them, and other kernels give other last bits.
    """

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self._tensors = tuple(tensors)
        self.places: list[tuple[int, torch.Tensor]] = []
        position = 0
        for tensor in tensors:
            for part in parts_of(tensor):
                pattern = torch.empty_like(part, device="meta")  # dense, with the strides of `part` where those are
                self.places.append((position, pattern))
                position += aligned(pattern.numel() * pattern.element_size())
        self.size_bytes = position

    def parts_in(self, memory: torch.Tensor) -> list[torch.Tensor]:
        """The plain tensors over `memory` (`size_bytes` bytes), in the order of the tensors' own parts."""
        return [_view(memory, position, pattern) for position, pattern in self.places]

    def tensors_in(self, memory: torch.Tensor) -> list[torch.Tensor]:
        """The tensors over `memory`, of the classes and with the attributes of those that were laid out."""
        parts = iter(self.parts_in(memory))
        return [with_parts(tensor, tuple(next(parts) for _ in parts_of(tensor))) for tensor in self._tensors]

    def copy_to(self, memory: torch.Tensor, *, non_blocking: bool = False) -> None:
        """Copy the laid out tensors, wherever they are now, one by one to their places in `memory`."""
        for place, source in zip(self.parts_in(memory), self._parts(), strict=True):
            place.copy_(source, non_blocking=non_blocking)

    def byte_pieces(self, memory: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The bytes of each part where it is now, and its place in `memory`."""
        for (position, pattern), source in zip(self.places, self._parts(), strict=True):
            numbers = source.as_strided((pattern.numel(),), (1,)) if source.stride() == pattern.stride() else None
            if numbers is None:  # not dense: what is copied is what is shown
                numbers = torch.empty_like(source).copy_(source).as_strided((pattern.numel(),), (1,))
            source_bytes = numbers.view(torch.uint8)
            yield source_bytes, memory[position : position + source_bytes.numel()]

    def _parts(self) -> Iterator[torch.Tensor]:
        return (part for tensor in self._tensors for part in parts_of(tensor))


def _view(memory: torch.Tensor, position: int, pattern: torch.Tensor) -> torch.Tensor:
    size = pattern.numel() * pattern.element_size()
    return memory[position : position + size].view(pattern.dtype).as_strided(pattern.size(), pattern.stride(), None)


def pack(tensors: Sequence[torch.Tensor], memory: torch.Tensor) -> list[torch.Tensor]:
    """Copy tensors into memory, and return those that lie there now."""
    layout = Layout(tensors)
    layout.copy_to(memory)
    return layout.tensors_in(memory)


def packed_memory(tensors: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """The one piece of memory that these tensors fill as they would if they had just been packed; None if they do not.

    It is read off the tensors, since others patch and exchange them too.
    """
    layout = Layout(tensors)
    parts = [part for tensor in tensors for part in parts_of(tensor)]
    if not layout.size_bytes:
        return None
    storage = parts[0].untyped_storage()
    begin = parts[0].storage_offset() * parts[0].element_size()
    if begin + layout.size_bytes > storage.nbytes():
        return None
    memory = torch.empty(0, dtype=torch.uint8, device=parts[0].device).set_(storage, begin, (layout.size_bytes,), (1,))
    is_packed = all(
        part.device == memory.device
        and part.untyped_storage().data_ptr() == storage.data_ptr()
        and part.storage_offset() * part.element_size() == begin + position
        and part.stride() == pattern.stride()
        for part, (position, pattern) in zip(parts, layout.places, strict=True)
    )
    return memory if is_packed else None
