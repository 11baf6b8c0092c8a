"""Tensors packed into one piece of memory are the same tensors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from multigpu.multigpu_core.execution.storage.packed_layout import Layout, copied_to, pack, packed_memory

TENSORS = {
    "a matrix": torch.randn(3, 5),
    "channels last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
    "transposed": torch.randn(4, 6).t(),
    "every other column": torch.randn(4, 6)[:, 1::2],
    "columns in the middle": torch.randn(4, 6)[:, 2:4],
    "expanded": torch.randn(4, 1).expand(4, 3),
    "diagonal": torch.randn(5, 5).diagonal(),
    "one number": torch.tensor(3.0),
    "empty": torch.zeros(0, 3),
    "eight bits": torch.randn(6, 4).to(torch.float8_e4m3fn),
    "truth values": torch.tensor([True, False, True]),
}


class Coded(Tensor):
    """Quantised as GGML tensors are: bytes of its own, attributes, and a shape that is not that of the bytes."""

    claimed: torch.Size

    @property
    def shape(self) -> torch.Size:  # type: ignore[override]
        return self.claimed


@pytest.mark.parametrize("kind", TENSORS)
def test_packed_tensors_are_those_that_torch_s_own_move_gives(kind: str) -> None:
    tensors = [torch.arange(7), TENSORS[kind], torch.randn(2)]
    size_bytes = Layout(tensors, closes_gaps=True).size_bytes
    packed = pack(tensors, torch.empty(size_bytes, dtype=torch.uint8))
    for before, after in zip(tensors, packed, strict=True):
        assert torch.equal(before.float(), after.float()) and before.dtype == after.dtype
        assert after.stride() == before.to("cpu", copy=True).stride()


@pytest.mark.parametrize("kind", TENSORS)
def test_staged_tensors_have_the_strides_of_the_stored_ones(kind: str) -> None:
    tensors = [torch.arange(7), TENSORS[kind], torch.randn(2)]
    layout = Layout(tensors)
    memory = torch.empty(layout.size_bytes, dtype=torch.uint8)
    for begin in range(0, layout.size_bytes, 100):  # as a copy channel whose copies are small asks for them
        end = min(begin + 100, layout.size_bytes)
        for position, source in layout.byte_segments(begin, end):
            memory[begin + position : begin + position + source.numel()] = source
    alone = [copied_to(tensor, torch.device("meta"), non_blocking=False) for tensor in tensors]
    for before, after, copied in zip(tensors, layout.tensors_in(memory), alone, strict=True):
        assert torch.equal(before.float(), after.float()) and before.dtype == after.dtype
        assert after.stride() == before.stride() == copied.stride() and copied.is_meta
        assert not before.numel() or (after.data_ptr() - memory.data_ptr()) % 256 == 0


def test_packed_tensors_are_known_as_such_and_others_are_not() -> None:
    tensors = [torch.randn(3, 5), torch.randn(7)]
    memory = torch.empty(Layout(tensors).size_bytes, dtype=torch.uint8)
    packed = pack(tensors, memory)
    found = packed_memory(packed)
    assert found is not None and found.data_ptr() == memory.data_ptr() and found.numel() == memory.numel()
    assert packed_memory(tensors) is None
    assert packed_memory(packed[::-1]) is None
    assert packed_memory([packed[0], torch.randn(7)]) is None, "somebody has put another tensor there"


def test_a_quantised_tensor_keeps_its_class_and_attributes() -> None:
    codes = torch.arange(16, dtype=torch.uint8).as_subclass(Coded)
    parameter = nn.Parameter(codes, requires_grad=False)
    parameter.claimed = torch.Size((4, 8))  # type: ignore[attr-defined]
    (packed,) = pack([parameter], torch.empty(Layout([parameter]).size_bytes, dtype=torch.uint8))
    assert type(packed) is type(parameter) and packed.shape == (4, 8)
    assert torch.equal(packed.as_subclass(Tensor), torch.arange(16, dtype=torch.uint8))


def test_a_wrapper_travels_as_its_codes_and_scales() -> None:
    scaled = torch.nested.nested_tensor([torch.randn(2), torch.randn(3)], layout=torch.jagged)
    (packed,) = pack([scaled], torch.empty(Layout([scaled]).size_bytes, dtype=torch.uint8))
    assert torch.equal(packed.values(), scaled.values())


def test_only_what_lies_as_packed_counts_as_packed() -> None:
    tensors = [torch.randn(4, 4), torch.randn(8, 8)]
    size_bytes = Layout(tensors).size_bytes
    one, other = (pack(tensors, torch.empty(size_bytes, dtype=torch.uint8)) for _ in range(2))
    assert packed_memory(one) is not None
    assert packed_memory([one[0], other[1]]) is None, "as far from the beginning, of another piece of memory"
    assert packed_memory([one[0], one[1].t()]) is not None, "another tensor, with all its bytes"
    assert packed_memory([one[0], one[1][:, :4]]) is not None
    wider = torch.empty(size_bytes, dtype=torch.uint8)[1024:].view(torch.float32)
    assert packed_memory([one[1], wider[:4]]) is None
    three = [torch.randn(4), torch.randn(4), torch.randn(4)]
    apart = pack(three, torch.empty(Layout(three).size_bytes + 1024, dtype=torch.uint8))
    assert packed_memory(apart) is not None and packed_memory([apart[0], apart[2]]) is None, "one between them"
    alone = torch.randn(3)
    assert packed_memory([alone]) is None, "memory that ends before the place of the last tensor does"
