"""Pinned host memory: who has how much of it, what a refusal means, and that unloaded weights have none."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch
from structlog.testing import capture_logs
from torch import Tensor

from multigpu.multigpu_core.devices import AcceleratorBackend, DeviceRegistry, default_registry
from multigpu.multigpu_core.execution import PinnedMemory
from multigpu.testing import SimulatedMachine

from ..streaming.streamed import PACKED_BYTES, Model, expected, inputs, split

KB = 1000
GB = 10**9


class Host:
    """A program around us that pins memory, too."""

    def __init__(self, limit_bytes: int, pinned_bytes: int = 0, idle_bytes: int = 0) -> None:
        self.limit_bytes = limit_bytes
        self.pinned_bytes = pinned_bytes
        self.idle_bytes = idle_bytes
        self.told_bytes = 0

    def pinned_by_host_bytes(self) -> int:
        return self.pinned_bytes

    def free_bytes(self) -> int:
        return self.limit_bytes - self.pinned_bytes - self.told_bytes

    def make_room(self, size_bytes: int) -> bool:
        if size_bytes > self.free_bytes():
            self.pinned_bytes -= self.idle_bytes
            self.idle_bytes = 0
        return size_bytes <= self.free_bytes()

    def tell(self, pinned_bytes: int) -> None:
        self.told_bytes = pinned_bytes


@pytest.fixture
def machine(simulated_machine: SimulatedMachine) -> Iterator[SimulatedMachine]:
    gc.collect()
    with simulated_machine.detecting_races():
        yield simulated_machine


def pinned(locked: PinnedMemory, size_bytes: int) -> Tensor | None:
    return locked.allocate(size_bytes, "npu:0")


@pytest.mark.parametrize("in_place", [True, False])
def test_an_unloaded_model_s_weights_are_in_ordinary_memory_and_the_next_load_pins_them_again(
    machine: SimulatedMachine, in_place: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not in_place:  # as with torch's own allocator, which most families of devices have
        monkeypatch.setattr(AcceleratorBackend, "unlock_pages", lambda *_: False)
    locked = PinnedMemory(default_registry(), GB)
    model, before = Model(), machine.timeline.locked_bytes
    distribution = split(model, "cpu", locked=locked)
    model(inputs())
    assert machine.timeline.locked_bytes - before == locked.locked_bytes > 0
    addresses = {name: weight.data_ptr() for name, weight in model.named_parameters() if weight.device.type == "cpu"}
    distribution.release()
    gc.collect()
    assert machine.timeline.locked_bytes == before and locked.locked_bytes == 0
    values = Model().state_dict()
    assert all(torch.equal(value.cpu(), values[name]) for name, value in model.state_dict().items())
    now = {name: weight.data_ptr() for name, weight in model.named_parameters()}
    assert all(now[name] == address for name, address in addresses.items()) is in_place
    split(model, "cpu", locked=locked)
    assert locked.locked_bytes == 4 * PACKED_BYTES
    assert all(model.get_parameter(name).data_ptr() == now[name] for name in addresses) is in_place
    assert torch.equal(model(inputs()).cpu(), expected(inputs()))


def test_what_one_model_leaves_the_next_one_pins(machine: SimulatedMachine) -> None:
    locked = PinnedMemory(default_registry(), 5 * PACKED_BYTES)
    first, second = Model(), Model()
    distribution = split(first, "cpu", locked=locked)
    assert locked.locked_bytes == 4 * PACKED_BYTES
    distribution.release()
    split(second, "cpu", locked=locked)
    assert locked.locked_bytes == 4 * PACKED_BYTES
    assert all(locked.holds(weight) for weight in second.parameters() if weight.device.type == "cpu")


def test_weights_that_are_freed_while_they_are_unpinned_are_forgotten(machine: SimulatedMachine) -> None:
    locked = PinnedMemory(default_registry(), GB)
    memory = pinned(locked, 64 * KB)
    assert memory is not None and locked.unlock(memory) and not locked.holds(memory)
    assert locked.lock(memory) and locked.holds(memory) and locked.unlock(memory)
    del memory
    gc.collect()
    assert not locked.lock(torch.empty(64 * KB, dtype=torch.uint8)), "another piece, perhaps at the same address"
    assert locked.locked_bytes == 0


def test_a_refusal_lasts_until_memory_is_returned(machine: SimulatedMachine) -> None:
    locked = PinnedMemory(default_registry(), GB)
    machine.limit_page_locking(100 * KB)
    with capture_logs() as lines:
        kept, first = pinned(locked, 60 * KB), pinned(locked, 30 * KB)
        assert kept is not None and first is not None and pinned(locked, 30 * KB) is None
        machine.limit_page_locking(60 * KB)
        assert pinned(locked, 30 * KB) is None and not locked.has_room(30 * KB), "the driver is not asked again"
        del first
        assert locked.has_room(30 * KB)
        again = pinned(locked, 30 * KB)
    assert again is not None
    assert [line["event"] for line in lines] == ["page_locking_failed"]


def test_a_refusal_before_anything_was_pinned_is_forgotten_with_the_next_unload(machine: SimulatedMachine) -> None:
    locked, model = PinnedMemory(default_registry(), GB), Model()
    machine.limit_page_locking(0)
    distribution = split(model, "cpu", locked=locked)
    assert locked.locked_bytes == 0
    distribution.release()
    machine.limit_page_locking(GB)
    split(model, "cpu", locked=locked)
    assert locked.locked_bytes == 4 * PACKED_BYTES


def test_a_refusal_is_forgotten_when_the_host_has_returned_memory(machine: SimulatedMachine) -> None:
    host = Host(GB, pinned_bytes=100 * KB)
    locked = PinnedMemory(default_registry(), GB, host)
    machine.limit_page_locking(0)
    assert pinned(locked, KB) is None
    machine.limit_page_locking(GB)
    assert pinned(locked, KB) is None
    host.pinned_bytes = 50 * KB
    assert pinned(locked, KB) is not None


def test_one_budget_is_shared_with_the_host_and_the_log_says_who_has_what(machine: SimulatedMachine) -> None:
    host = Host(limit_bytes=10 * GB, pinned_bytes=10 * GB - 100 * KB)
    locked = PinnedMemory(default_registry(), GB, host)
    with capture_logs() as lines:
        first = pinned(locked, 60 * KB)
        assert first is not None and host.told_bytes == 60 * KB
        assert not locked.has_room(60 * KB)
        assert pinned(locked, 60 * KB) is None
    (line,) = [line for line in lines if line["event"] == "page_locked_limit"]
    assert (line["locked_bytes"], line["locked_by_comfyui_bytes"]) == (60 * KB, 10 * GB - 100 * KB)
    assert "ComfyUI 10.0 GB" in line["message"]
    host.idle_bytes = 100 * KB
    assert pinned(locked, 60 * KB) is not None, "the host has unpinned what was idle"
    del first
    gc.collect()
    assert locked.locked_bytes == host.told_bytes == 0


def test_memory_is_not_pinned_again_beyond_the_limit(machine: SimulatedMachine) -> None:
    locked = PinnedMemory(default_registry(), 100 * KB)
    memory = pinned(locked, 60 * KB)
    assert memory is not None and locked.unlock(memory)
    other = pinned(locked, 60 * KB)
    assert other is not None and not locked.lock(memory)
    assert locked.locked_bytes == 60 * KB


def test_the_host_is_told_when_memory_becomes_ordinary_and_when_it_is_pinned_again(machine: SimulatedMachine) -> None:
    host = Host(GB)
    locked = PinnedMemory(default_registry(), GB, host)
    memory = pinned(locked, 60 * KB)
    assert memory is not None and locked.unlock(memory)
    assert host.told_bytes == 0
    assert locked.lock(memory)
    assert host.told_bytes == 60 * KB


def test_a_garbage_collection_in_the_middle_of_the_books_harms_nothing(
    machine: SimulatedMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every step of the bookkeeping frees another piece, as a collection that begins there may."""
    locked = PinnedMemory(default_registry(), GB)
    held = [pinned(locked, KB) for _ in range(20)]
    made = DeviceRegistry.empty_pinned

    def free_one() -> None:
        if held:
            held.pop()

    class Freeing(dict):  # type: ignore[type-arg]
        def __setitem__(self, key: object, value: object) -> None:
            free_one()
            super().__setitem__(key, value)

        def pop(self, *args: object) -> object:
            free_one()
            return super().pop(*args)

    def freeing(self: DeviceRegistry, *args: object) -> Tensor:
        free_one()
        return made(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(locked, "_pinned", Freeing(locked._pinned))
    monkeypatch.setattr(DeviceRegistry, "empty_pinned", freeing)
    memory = pinned(locked, KB)
    assert memory is not None and locked.holds(memory) and not held
    assert locked.locked_bytes == KB


def test_memory_at_the_address_of_a_piece_that_was_just_freed_counts(
    machine: SimulatedMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked, place, held = PinnedMemory(default_registry(), GB), bytearray(KB), []

    def at_one_place(*_: object) -> Tensor:
        held.clear()  # as a collection in the middle of the allocation may free it
        return torch.frombuffer(place, dtype=torch.uint8)

    monkeypatch.setattr(DeviceRegistry, "empty_pinned", at_one_place)
    held.append(pinned(locked, KB))
    memory = pinned(locked, KB)
    assert not held and memory is not None and locked.holds(memory)
    assert locked.locked_bytes == KB
