"""Several tensors one behind the other in one piece of memory, so that all of them travel in one copy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from multigpu.multigpu_core.allocation.planner.staging_ring import aligned

from .tensor_parts import parts_of, with_parts


class Layout:
    """Where each of some tensors lies within `size_bytes` of memory; any memory of that size can be laid out so.

    Each keeps its strides, gaps and overlaps included: operators choose their kernels by strides, and another kernel
    rounds differently. Each begins at a multiple of the alignment, as one that is allocated alone. With `closes_gaps`
    the strides are those that `tensor.to(device)` gives: dense, in the order of the original's.
    """

    def __init__(self, tensors: Sequence[torch.Tensor], *, closes_gaps: bool = False) -> None:
        self._tensors = tuple(tensors)
        self.places: list[tuple[int, torch.Tensor]] = []
        position = 0
        for tensor in tensors:
            for part in parts_of(tensor):
                pattern = _dense_pattern(part) if closes_gaps else _pattern(part)
                self.places.append((position, pattern))
                position += aligned(pattern.untyped_storage().nbytes())
        self.size_bytes = position

    def parts_in(self, memory: torch.Tensor) -> list[torch.Tensor]:
        """The plain tensors over `memory` (`size_bytes` bytes), in the order of the tensors' own parts."""
        return [_view(memory, position, pattern) for position, pattern in self.places]

    def tensors_in(self, memory: torch.Tensor) -> list[torch.Tensor]:
        """The tensors over `memory`, of the classes and with the attributes of those that were laid out."""
        parts = iter(self.parts_in(memory))
        return [with_parts(tensor, tuple(next(parts) for _ in parts_of(tensor))) for tensor in self._tensors]

    def byte_segments(self, begin: int, end: int) -> Iterator[tuple[int, torch.Tensor]]:
        """The bytes of the tensors, where they are now, whose places are between two: where there, and the bytes."""
        for (position, pattern), part in zip(self.places, _parts(self._tensors), strict=True):
            low, high = max(begin, position), min(end, position + pattern.untyped_storage().nbytes())
            if low < high:
                yield low - begin, span_of(part).view(torch.uint8)[low - position : high - position]


def span_of(part: torch.Tensor) -> torch.Tensor:
    """All that lies between the first and the last number of a plain tensor, gaps included, one behind the other."""
    numbers = 1 + sum((size - 1) * step for size, step in zip(part.size(), part.stride(), strict=True))
    return part.as_strided((numbers if part.numel() else 0,), (1,))


def copied_to(tensor: torch.Tensor, device: torch.device, *, non_blocking: bool) -> torch.Tensor:
    """A copy on a device, with the strides of the original: `tensor.to` closes gaps and undoes overlaps."""
    parts = parts_of(tensor)
    if all(_dense_pattern(part).stride() == part.stride() for part in parts):
        return tensor.detach().to(device, non_blocking=non_blocking)
    moved = (span_of(part).to(device, non_blocking=non_blocking) for part in parts)
    return with_parts(tensor, tuple(m.as_strided(p.size(), p.stride()) for m, p in zip(moved, parts, strict=True)))


def _parts(tensors: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
    return (part for tensor in tensors for part in parts_of(tensor))


def _pattern(part: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(part.size(), part.stride(), dtype=part.dtype, device="meta")


def _dense_pattern(part: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(part, device="meta")


def _view(memory: torch.Tensor, position: int, pattern: torch.Tensor) -> torch.Tensor:
    size = pattern.untyped_storage().nbytes()
    return memory[position : position + size].view(pattern.dtype).as_strided(pattern.size(), pattern.stride(), None)


def pack(tensors: Sequence[torch.Tensor], memory: torch.Tensor) -> list[torch.Tensor]:
    """Copy tensors into memory of the size that a `Layout` that closes gaps tells; return those that lie there now."""
    layout = Layout(tensors, closes_gaps=True)
    for place, source in zip(layout.parts_in(memory), _parts(tensors), strict=True):
        place.copy_(source)
    return layout.tensors_in(memory)


def packed_memory(tensors: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """The one piece of memory that these tensors fill as they would if they had just been packed; None if they do not.

    It is read off the tensors, since others patch and exchange them too.
    """
    layout = Layout(tensors)
    parts = list(_parts(tensors))
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
