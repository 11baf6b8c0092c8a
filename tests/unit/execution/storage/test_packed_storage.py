"""Blocks that are stored away are packed where memory for that can be had, and it is known which are."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from multigpu.multigpu_core.allocation import Block, BlockKind
from multigpu.multigpu_core.devices import default_registry
from multigpu.multigpu_core.execution import Distribution, PinnedMemory
from multigpu.multigpu_core.execution.storage.packed_storage import PackedStorage
from multigpu.multigpu_core.execution.storage.tensor_slots import TensorSlot
from multigpu.testing import SimulatedMachine

from ..streaming.streamed import COMPUTE, GB, Model, expected, inputs, split


@pytest.fixture
def machine(simulated_machine: SimulatedMachine) -> Iterator[SimulatedMachine]:
    gc.collect()
    yield simulated_machine


def block_on(distribution: Distribution, device: str) -> Block:
    blocks = (block for block in distribution.inventory.blocks if block.kind is not BlockKind.HEAD)
    return next(block for block in blocks if distribution.device_of(block) == device)


@pytest.mark.parametrize("device", ["npu:1", "cpu"])
def test_a_block_counts_as_placed_only_while_it_is_packed_there(machine: SimulatedMachine, device: str) -> None:
    model = Model()
    distribution = split(model, device)
    block = block_on(distribution, device)
    assert distribution.is_placed(block, device)
    assert not distribution.is_placed(block, COMPUTE)
    parameter = model.get_submodule(block.name).up
    parameter.weight = nn.Parameter(parameter.weight.clone(), requires_grad=False)
    assert not distribution.is_placed(block, device), "there, but not packed with the rest of its block"
    distribution.place(block, device)
    assert distribution.is_placed(block, device)


def test_a_block_that_computes_where_it_is_stored_needs_no_packing(machine: SimulatedMachine) -> None:
    distribution = split(Model(), "npu:1")
    assert distribution.is_placed(block_on(distribution, COMPUTE), COMPUTE)


def test_a_block_moves_off_its_card_also_where_no_memory_can_be_pinned(machine: SimulatedMachine) -> None:
    model = Model().to(COMPUTE)
    machine.limit_page_locking(0)
    distribution = split(model, "cpu")
    block = next(block for block in distribution.inventory.blocks if block.kind is not BlockKind.HEAD)
    assert distribution.device_of(block) == "cpu"
    assert distribution.is_placed(block, "cpu"), "nothing more can be done for it"
    assert torch.equal(model(inputs()).cpu(), expected(inputs()))


@pytest.mark.parametrize("device", ["npu:1", "cpu"])
def test_tensors_without_a_byte_need_no_packing(machine: SimulatedMachine, device: str) -> None:
    registry = default_registry()
    storage = PackedStorage(registry, COMPUTE, PinnedMemory(registry, GB))
    owner = nn.Module()
    owner.register_buffer("empty", torch.empty(0, 4, device=device))
    assert storage.is_done([TensorSlot("empty", owner, "empty")], device)


def test_a_tensor_that_is_alone_on_a_card_is_not_taken_for_packed(machine: SimulatedMachine) -> None:
    registry = default_registry()
    storage = PackedStorage(registry, COMPUTE, PinnedMemory(registry, GB))
    owner = nn.Module()
    for name in ("first", "second"):
        owner.register_buffer(name, torch.randn(100, device="npu:1"))
    slots = [TensorSlot(name, owner, name) for name in ("first", "second")]
    values = [_numbers(slot.tensor) for slot in slots]
    assert not storage.is_done(slots, "npu:1")
    assert storage.store(slots, "npu:1") and storage.is_done(slots, "npu:1")
    assert [_numbers(slot.tensor) for slot in slots] == values


def _numbers(tensor: Tensor) -> list[float]:
    return tensor.cpu().tolist()  # type: ignore[no-any-return]
