"""One live model's weights: where the plan wants them, where they are, and the act of moving them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from torch import nn

from multigpu.multigpu_core.allocation import AllocationPlan, Block, BlockKind, Inventory
from multigpu.multigpu_core.allocation.planner.staging_bytes import staged_bytes
from multigpu.multigpu_core.devices import DeviceRegistry
from multigpu.multigpu_core.execution.parallel.micro_batches import MicroBatches, micro_batches_on
from multigpu.multigpu_core.execution.relay.relay import Relay
from multigpu.multigpu_core.execution.storage.packed_storage import PackedStorage
from multigpu.multigpu_core.execution.storage.pinned_memory import PinnedMemory
from multigpu.multigpu_core.execution.storage.tensor_slots import (
    TensorSlot,
    move_slots,
    slots_by_tensor,
    slots_of_module,
    stored_bytes,
)
from multigpu.multigpu_core.execution.streaming.called_modules import slots_by_called_module
from multigpu.multigpu_core.execution.streaming.streamer import Streamer

from .device_guard import CurrentDevice
from .step_record import StepRecord


class DistributionError(RuntimeError):
    """The bytes on the devices are not those of the plan. `planned` and `actual` are bytes by device name."""

    def __init__(self, planned: Mapping[str, int], actual: Mapping[str, int]) -> None:
        self.planned = dict(planned)
        self.actual = dict(actual)
        super().__init__(
            f"The weights do not lie where the plan puts them: planned {self.planned}, found {self.actual} (bytes by "
            "device). Another extension may have moved them; load the model again, and report this if it stays."
        )


@dataclass(frozen=True)
class Residency:
    """What one distributed model occupies, for logs and reports. Sizes are bytes."""

    plan: AllocationPlan
    bytes_by_device: dict[str, int]
    step_transfer_bytes: int
    """Bytes brought to the compute device in the last step."""
    total_transfer_bytes: int
    staging_bytes: int = 0
    """Bytes of the compute device that are kept, beside the weights, for those on their way."""
    step_seconds: float | None = None
    """What a step took of late; None before the second."""


class Distribution:
    """Places a model's blocks on devices and serves the offloaded ones to the compute device.

    It is shared by all patchers that share the model. Between `begin` and `release` the weights are ours to place;
    outside, the model lies whole on its offload device and none of our hooks is on it. A block's place is read off its
    tensors, never remembered: others patch and exchange them too.
    """

    def __init__(self, module: nn.Module, inventory: Inventory, registry: DeviceRegistry, locked: PinnedMemory) -> None:
        self.module = module
        self._registry = registry
        self._locked = locked
        self._plan: AllocationPlan | None = None
        self._storage: PackedStorage | None = None
        self._streamer: Streamer | None = None
        self._current_device: CurrentDevice | None = None
        self._relay: Relay | None = None
        self._served: Mapping[str, str] | None = None
        self.take_stock(inventory)

    def take_stock(self, inventory: Inventory) -> None:
        """Look up the tensors of these blocks in the module as it is now: object patches exchange modules.

        Raises:
            KeyError: a block names a tensor that the module does not have.
        """
        self.inventory = inventory
        slots = slots_of_module(self.module)
        self._modules = dict(self.module.named_modules())
        self._slots = {block.name: tuple(slots.pop(name) for name in block.parameters) for block in inventory.blocks}
        self._uncounted = tuple(slots.values())

    @property
    def plan(self) -> AllocationPlan | None:
        """The plan in force, or None while the model is not loaded."""
        return self._plan

    @property
    def is_served(self) -> bool:
        """Whether the hooks are on that bring each offloaded block to where it is computed."""
        return self._served is not None

    @property
    def served_devices(self) -> Mapping[str, str]:
        """Where each block was placed, by block name, without a look at its tensors: for any thread, at any moment.

        Empty while nothing is served.
        """
        return self._served or {}

    @property
    def record(self) -> StepRecord:
        """What the steps since the last load have moved, and taken."""
        return self._streamer.record if self._streamer is not None else StepRecord()

    def settle(self) -> None:
        """Undo what a forward that was broken off left behind."""
        for hooks in (self._streamer, self._relay, self._current_device):
            if hooks is not None:
                hooks.settle()

    def weights_changed(self) -> None:
        """Say that stored weights have been written to in place, so that no earlier copy of them is used."""
        if self._streamer is not None:
            self._streamer.forget_copies()

    def begin(self, plan: AllocationPlan) -> None:
        """Put a plan in force. Nothing moves yet: the caller places every block and then calls `serve`."""
        self._stop_serving()
        self._plan = plan
        compute = plan.compute_device
        self._streamer = Streamer(self._registry, compute, self._locked, plan.staging_bytes)
        self._relay = Relay(self._registry, compute)
        self._current_device = CurrentDevice(self._registry, compute)
        has_streams = self._registry.streams(compute) is not None
        self._storage = PackedStorage(self._registry, compute, self._locked) if has_streams else None

    def device_of(self, block: Block) -> str:
        """The device of a block's first tensor."""
        return self._registry.name_of(self._slots[block.name][0].tensor.device)

    def is_placed(self, block: Block, device: str) -> bool:
        """Whether all of a block's tensors are on a device, and there as `place` leaves them."""
        target, slots = self._registry.torch_device(device), self._slots[block.name]
        if not all(slot.tensor.device == target for slot in slots):
            return False
        if self._storage is None or self._plan is None or device == self._plan.compute_device:
            return True
        parts = self._slots_to_pack(self._modules.get(block.name), slots)
        return all(self._storage.is_done(part, device) for part in parts)

    def place(self, block: Block, device: str) -> None:
        """Store one block on a device: ready to be streamed, unless it computes there. `serve` follows."""
        assert self._plan, "place() follows begin()"
        if self._streamer is not None and self.is_served:
            self._served = None
            self._streamer.detach()  # it holds on to the memory that blocks leave
        slots = self._slots[block.name]
        if self._storage is None or device == self._plan.compute_device:
            move_slots(slots, self._registry.torch_device(device))
            return
        root = self._modules.get(block.name)
        for of_module in self._slots_to_pack(root, slots):
            if not self._storage.store(of_module, device):
                move_slots(of_module, self._registry.torch_device(device))

    def serve(self, devices: Mapping[str, str]) -> None:
        """Hook the offloaded blocks: each is on the compute device during its forward, or relayed as planned.

        `devices` says, by block name, where each block was placed.

        Raises:
            DistributionError: the tensors are not there.
        """
        assert self._plan and self._streamer and self._current_device and self._relay, "serve() follows begin()"
        self._served = None
        expected: dict[str, int] = {}
        for block in self.inventory.blocks:
            device = devices[block.name]
            expected[device] = expected.get(device, 0) + block.size_bytes
        actual = self.bytes_by_device()
        if expected != actual:
            raise DistributionError(expected, actual)
        compute = self._plan.compute_device
        relayed = {p.block.name: p.device for p in self._plan.placements if p.relayed}
        relayed = {name: device for name, device in relayed.items() if devices[name] == device}
        streamed = [name for name, device in devices.items() if device != compute and name not in relayed]
        for slot in self._uncounted:  # caches of rotations and the like: small, and in no file
            home = next((device for name, device in relayed.items() if slot.name.startswith(f"{name}.")), compute)
            move_slots([slot], self._registry.torch_device(home))
        # Before the relay, which then comes first in a forward: after one that was interrupted it leaves the donor, and
        # only what is current then is to be current again afterwards.
        self._current_device.attach(self.module)
        self._relay.attach(self.module, self._slots, relayed)
        if relayed and not streamed:
            computing = (compute, *dict.fromkeys(relayed.values()))
            self._relay.micro_batches = micro_batches_on(self._registry, computing, self.module, self.settle)
        self._streamer.attach(self.module, {name: self._slots[name] for name in streamed})
        self._served = dict(devices)

    def demote(self, bytes_wanted: int, device: str, source: str | None = None) -> int:
        """Move blocks off `source`, or else the compute device, to `device` until `bytes_wanted` are free; heads stay.

        Takes them evenly along execution order. Returns the bytes freed, which may be fewer: what staging grows by, if
        one of them is larger than all that were streamed before, is not free.
        """
        if self._plan is None or device in (self._plan.compute_device, source):
            return 0
        devices = {block.name: self.device_of(block) for block in self.inventory.blocks}
        movable = self.movable_on(source or self._plan.compute_device)
        staging = self.staging_bytes
        growth = max(0, max(map(staged_bytes, movable), default=0) - staging)
        demoted = _spread(movable, bytes_wanted + growth)
        if demoted:
            self._move_or_put_back(devices, {block.name: device for block in demoted})
        freed = sum(block.size_bytes for block in demoted) - (self.staging_bytes - staging)
        is_enough = freed >= bytes_wanted or len(demoted) == len(movable)
        return freed if is_enough else freed + self.demote(bytes_wanted - freed, device, source)

    def save_staging(self) -> int:
        """Keep no more for blocks on their way than the largest of them needs. Returns the bytes freed."""
        before = self.staging_bytes
        if self._streamer is not None:
            self._streamer.save_memory()
        return before - self.staging_bytes

    def movable_on(self, device: str) -> list[Block]:
        """The blocks that lie on a device and need not."""
        blocks = (block for block in self.inventory.blocks if block.kind is not BlockKind.HEAD)
        return [block for block in blocks if self.device_of(block) == device]

    def release(self) -> None:
        """Take our hooks off, unpin the weights and forget the plan; whoever calls this moves the weights home."""
        storage, self._plan = self._storage, None
        self._stop_serving()
        if storage is not None:
            for slots in self._slots.values():
                storage.unpin(slots)
            self._locked.forget_refusals()

    def bytes_by_device(self) -> dict[str, int]:
        """The bytes that really lie on each device, by device name; a tensor under two names counts once."""
        sizes: dict[str, int] = {}
        for device, size in stored_bytes(slot for slots in self._slots.values() for slot in slots):
            name = self._registry.name_of(device)
            sizes[name] = sizes.get(name, 0) + size
        return sizes

    def residency(self) -> Residency | None:
        """What is occupied now, or None while the model is not loaded."""
        plan = self._plan  # it may be asked for while the model is unloaded
        if plan is None:
            return None
        steps = self.record
        sizes = self.bytes_by_device()
        return Residency(plan, sizes, steps.step_bytes, steps.total_bytes, self.staging_bytes, steps.step_seconds)

    @property
    def micro_batches(self) -> MicroBatches | None:
        """How to run two halves of a step at once; None where they are not to be split."""
        return self._relay.micro_batches if self._relay is not None else None

    @property
    def staging_bytes(self) -> int:
        """Bytes of the compute device that are kept for weights on their way."""
        return self._streamer.staging_bytes if self._streamer is not None else 0

    def _move_or_put_back(self, before: Mapping[str, str], moves: Mapping[str, str]) -> None:
        """Move some blocks, by name, and serve all; if that fails in the middle, all is as `before`."""
        try:
            self._place_all({**before, **moves})
        except BaseException:
            self._place_all(before)
            raise

    def _place_all(self, devices: Mapping[str, str]) -> None:
        for block in self.inventory.blocks:
            if not self.is_placed(block, devices[block.name]):
                self.place(block, devices[block.name])
        self.serve(devices)

    def _stop_serving(self) -> None:
        self._served = None
        with ExitStack() as all_of_them:  # also after one that fails
            for hooks in (self._streamer, self._relay, self._current_device):
                if hooks is not None:
                    all_of_them.callback(hooks.detach)
        self._streamer = self._relay = self._current_device = self._storage = None

    def _slots_to_pack(self, root: nn.Module | None, slots: tuple[TensorSlot, ...]) -> list[tuple[TensorSlot, ...]]:
        """A block's slots by the module that is called, each to be packed by itself.

        Where modules share a tensor they stay together: it must remain one.
        """
        parts = [part for _, part in slots_by_called_module(root, slots)]
        tensors = sum(len(list(slots_by_tensor(part))) for part in parts)
        return parts if tensors == len(list(slots_by_tensor(slots))) else [slots]


def _spread(blocks: Sequence[Block], bytes_wanted: int) -> Sequence[Block]:
    """Enough of `blocks` for `bytes_wanted`, evenly spread over their order."""
    total = sum(block.size_bytes for block in blocks)
    if bytes_wanted >= total:
        return blocks
    chosen, passed, taken = [], 0, 0
    for block in blocks:
        passed += block.size_bytes
        if taken * total < passed * bytes_wanted:
            chosen.append(block)
            taken += block.size_bytes
    return chosen
