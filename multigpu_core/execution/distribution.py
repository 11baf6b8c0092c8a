"""One live model's weights: where the plan wants them, where they are, and the act of moving them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from torch import nn

from multigpu.multigpu_core.allocation import AllocationPlan, Block, BlockKind, Inventory
from multigpu.multigpu_core.allocation.planner.staging_bytes import staged_bytes
from multigpu.multigpu_core.devices import DeviceRegistry
from multigpu.multigpu_core.execution.parallel.micro_batches import MicroBatches, micro_batches_on
from multigpu.multigpu_core.execution.parallel.replicas import Replicas
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
from multigpu.multigpu_core.execution.streaming.layer_order import LayerOrders
from multigpu.multigpu_core.execution.streaming.streamer import Streamer

from .device_guard import CurrentDevice
from .distribution_state import Home, Placing, Serving, State
from .step_record import StepRecord


class DistributionError(RuntimeError):
    """The bytes on the devices are not those of the plan. `planned` and `actual` are bytes by device name."""

    def __init__(self, planned: Mapping[str, int], actual: Mapping[str, int]) -> None:
        self.planned = dict(planned)
        self.actual = dict(actual)
        super().__init__(
            f"The weights are not where the plan puts them: planned {self.planned}, found {self.actual} (bytes by "
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
    """Bytes of the compute device reserved for streaming, beside the weights."""
    step_seconds: float | None = None
    """What a step took of late; None before the second."""


class Distribution:
    """Places a model's blocks on devices and serves the offloaded ones to the compute device.

    It is shared by all patchers that share the model. Its state is one frozen value that is replaced as a whole, so
    that other threads may read it at any moment. Where a block is, is read off its tensors and never remembered: others
    patch and exchange them too.
    """

    def __init__(self, module: nn.Module, inventory: Inventory, registry: DeviceRegistry, locked: PinnedMemory) -> None:
        self.module = module
        self._registry = registry
        self._locked = locked
        self._state: State = Home()
        self._orders = LayerOrders()
        self.inventory = inventory
        self.parts = inventory.blocks
        """What is placed: the blocks and layers of the plan in force, in execution order."""
        self.take_stock(inventory)

    def take_stock(self, inventory: Inventory) -> None:
        """Look up the tensors of these blocks in the module as it is now: object patches exchange modules.

        Raises:
            KeyError: a block names a tensor that the module does not have.
        """
        is_known = isinstance(self._state, Placing) and inventory == self.inventory
        self.inventory = inventory
        self._modules = dict(self.module.named_modules())
        self._divide(self.parts if is_known else inventory.blocks)

    def _divide(self, parts: tuple[Block, ...]) -> None:
        """Look up the tensors of these blocks and layers, which together are the whole model."""
        slots = slots_of_module(self.module)
        self._slots = {part.name: tuple(slots.pop(name) for name in part.parameters) for part in parts}
        self._uncounted = tuple(slots.values())
        self.parts = parts

    @property
    def plan(self) -> AllocationPlan | None:
        """The plan in force, or None while the model is not loaded."""
        state = self._state
        return state.plan if isinstance(state, Placing) else None

    @property
    def is_served(self) -> bool:
        """Whether the hooks are on that bring each offloaded block to where it is computed."""
        return isinstance(self._state, Serving)

    @property
    def served_devices(self) -> Mapping[str, str]:
        """Where each block was placed, by block name, without a look at its tensors: for any thread, at any moment.

        Empty while nothing is served.
        """
        state = self._state
        return state.devices if isinstance(state, Serving) else {}

    @property
    def record(self) -> StepRecord:
        """What the steps since the last load have moved, and taken."""
        state = self._state
        return state.streamer.record if isinstance(state, Placing) else StepRecord()

    def settle(self) -> None:
        """Undo what a forward that was broken off left behind."""
        if isinstance(self._state, Placing):
            for hooks in self._state.hooks:
                hooks.settle()

    def weights_changed(self) -> None:
        """Say that stored weights have been written to in place, so that no earlier copy of them is used."""
        if isinstance(self._state, Placing):
            self._state.streamer.forget_copies()
            if self._state.replicas is not None:
                self._state.replicas.forget_copies()

    def begin(self, plan: AllocationPlan) -> None:
        """Put a plan in force. Nothing moves yet: the caller places every block and then calls `serve`."""
        self._detach()
        self._divide(tuple(placement.block for placement in plan.placements))
        compute = plan.compute_device
        is_relayed = any(placement.relayed for placement in plan.placements)
        has_streams = self._registry.streams(compute) is not None
        self._state = Placing(
            plan,
            Streamer(self._registry, compute, self._locked, plan.staging_bytes, self._orders),
            Relay(self._registry, compute) if is_relayed else None,
            CurrentDevice(self._registry, compute),
            PackedStorage(self._registry, compute, self._locked) if has_streams else None,
            Replicas(self._registry, plan, self._locked) if plan.work_shares else None,
        )

    def device_of(self, block: Block) -> str:
        """The device of a block's first tensor."""
        return self._registry.name_of(self._slots[block.name][0].tensor.device)

    def is_placed(self, block: Block, device: str) -> bool:
        """Whether all of a block's tensors are on a device, and there as `place` leaves them."""
        target, slots = self._registry.torch_device(device), self._slots[block.name]
        if not all(slot.tensor.device == target for slot in slots):
            return False
        state = self._state
        if isinstance(state, Home) or state.storage is None or device == state.plan.compute_device:
            return True
        parts = self._slots_to_pack(self._modules.get(block.name), slots)
        return all(state.storage.is_done(part, device) for part in parts)

    def place(self, block: Block, device: str) -> None:
        """Store one block on a device: ready to be streamed, unless it computes there. `serve` follows."""
        if isinstance(self._state, Serving):
            self._state = self._state.without_hooks()
            self._state.streamer.detach()  # it holds on to the memory that blocks leave
            if self._state.replicas is not None:
                self._state.replicas.suspend()
        state = self._state
        assert isinstance(state, Placing), "place() follows begin()"
        slots = self._slots[block.name]
        if state.storage is None or device == state.plan.compute_device:
            move_slots(slots, self._registry.torch_device(device))
            return
        root = self._modules.get(block.name)
        for of_module in self._slots_to_pack(root, slots):
            if not state.storage.store(of_module, device):
                move_slots(of_module, self._registry.torch_device(device))

    def serve(self, devices: Mapping[str, str]) -> None:
        """Hook the offloaded blocks: each is on the compute device during its forward, or relayed as planned.

        `devices` says, by block name, where each block was placed.

        Raises:
            DistributionError: the tensors are not there.
        """
        assert isinstance(self._state, Placing), "serve() follows begin()"
        state = self._state = self._state.without_hooks()
        expected: dict[str, int] = {}
        for block in self.parts:
            device = devices[block.name]
            expected[device] = expected.get(device, 0) + block.size_bytes
        actual = self._own_bytes_by_device()
        if expected != actual:
            raise DistributionError(expected, actual)
        compute = state.plan.compute_device
        relayed = {p.block.name: p.device for p in state.plan.placements if p.relayed}
        relayed = {name: device for name, device in relayed.items() if devices[name] == device}
        streamed = [name for name, device in devices.items() if device != compute and name not in relayed]
        for slot in self._uncounted:  # caches of rotations and the like: small, and in no file
            home = next((device for name, device in relayed.items() if slot.name.startswith(f"{name}.")), compute)
            move_slots([slot], self._registry.torch_device(home))
        if state.replicas is not None:
            state.streamer.detach()  # replicas have the hooks of others, but none of ours
            state.current_device.detach()
            state.replicas.mirror(self.module)
        # Before the relay, which then comes first in a forward: after one that was interrupted it leaves the donor, and
        # only what is current then is to be current again afterwards.
        state.current_device.attach(self.module)
        if state.relay is not None:
            state.relay.attach(self.module, self._slots, relayed)
            if relayed and not streamed:
                computing = (compute, *dict.fromkeys(relayed.values()))
                state.relay.micro_batches = micro_batches_on(self._registry, computing, self.module, self.settle)
        state.streamer.attach(self.module, {name: self._slots[name] for name in streamed}, self.parts)
        if state.replicas is not None:
            blocks = [block for block in self.inventory.blocks if block.kind is not BlockKind.HEAD]
            state.replicas.attach(blocks, [part for part in self.parts if devices[part.name] != compute], self.parts)
        self._state = Serving(**vars(state), devices=dict(devices))

    def demote(self, bytes_wanted: int, device: str, source: str | None = None) -> int:
        """Move blocks off `source`, or else the compute device, to `device` until `bytes_wanted` are free; heads stay.

        Takes them evenly along execution order. Returns the bytes freed, which may be fewer: what staging grows by, if
        one of them is larger than all that were streamed before, is not free.
        """
        plan = self.plan
        if plan is None or device in (plan.compute_device, source):
            return 0
        devices = {block.name: self.device_of(block) for block in self.parts}
        movable = self.movable_on(source or plan.compute_device)
        staging = self.staging_bytes
        growth = max(0, max(map(staged_bytes, movable), default=0) - staging)
        demoted = _spread(movable, bytes_wanted + growth)
        if demoted:
            self._move_or_put_back(devices, {block.name: device for block in demoted})
        freed = sum(block.size_bytes for block in demoted) - (self.staging_bytes - staging)
        is_enough = freed >= bytes_wanted or len(demoted) == len(movable)
        return freed if is_enough else freed + self.demote(bytes_wanted - freed, device, source)

    def save_staging(self) -> int:
        """Shrink the staging buffer to what the largest streamed block needs. Returns the bytes freed."""
        before = self.staging_bytes
        if isinstance(self._state, Placing):
            self._state.streamer.save_memory()
            if self._state.replicas is not None:
                self._state.replicas.save_memory()
        return before - self.staging_bytes

    def movable_on(self, device: str) -> list[Block]:
        """The blocks that lie on a device and need not."""
        blocks = (block for block in self.parts if block.kind is not BlockKind.HEAD)
        return [block for block in blocks if self.device_of(block) == device]

    def release(self) -> None:
        """Take our hooks off, unpin the weights and forget the plan; whoever calls this moves the weights home."""
        storage = self._state.storage if isinstance(self._state, Placing) else None
        self._detach()
        if storage is not None:
            for slots in self._slots.values():
                storage.unpin(slots)
            self._locked.forget_refusals()

    def compute_alone(self) -> None:
        """Free the replicas until `begin`: the compute device does all the work."""
        if isinstance(self._state, Placing) and self._state.replicas is not None:
            replicas, self._state = self._state.replicas, replace(self._state, replicas=None)
            replicas.detach()

    def bytes_by_device(self) -> dict[str, int]:
        """The bytes that really lie on each device, replicas included, by device name."""
        sizes = self._own_bytes_by_device()
        if self.replicas is not None:
            for device, size in self.replicas.bytes_by_device.items():
                sizes[device] = sizes.get(device, 0) + size
        return sizes

    def _own_bytes_by_device(self) -> dict[str, int]:
        """Those of the model itself; a tensor under two names counts once."""
        sizes: dict[str, int] = {}
        for device, size in stored_bytes(slot for slots in self._slots.values() for slot in slots):
            name = self._registry.name_of(device)
            sizes[name] = sizes.get(name, 0) + size
        return sizes

    def residency(self) -> Residency | None:
        """What is occupied now, or None while the model is not loaded."""
        state = self._state  # it may be asked for while the model is unloaded
        if isinstance(state, Home):
            return None
        steps, staging = state.streamer.record, state.streamer.staging_bytes
        sizes = self.bytes_by_device()
        return Residency(state.plan, sizes, steps.step_bytes, steps.total_bytes, staging, steps.step_seconds)

    @property
    def micro_batches(self) -> MicroBatches | None:
        """How to run two halves of a step at once; None where they are not to be split."""
        return self._state.micro_batches if isinstance(self._state, Placing) else None

    @property
    def replicas(self) -> Replicas | None:
        """The replicas that compute a part of each step; None where there are none."""
        return self._state.replicas if isinstance(self._state, Placing) else None

    @property
    def staging_bytes(self) -> int:
        """Bytes of the compute device reserved for streaming."""
        state = self._state
        return state.streamer.staging_bytes if isinstance(state, Placing) else 0

    def _move_or_put_back(self, before: Mapping[str, str], moves: Mapping[str, str]) -> None:
        """Move some blocks, by name, and serve all; if that fails in the middle, all is as `before`."""
        try:
            self._place_all({**before, **moves})
        except BaseException:
            self._place_all(before)
            raise

    def _place_all(self, devices: Mapping[str, str]) -> None:
        for block in self.parts:
            if not self.is_placed(block, devices[block.name]):
                self.place(block, devices[block.name])
        self.serve(devices)

    def _detach(self) -> None:
        """Take all of our hooks off. Where one cannot be taken off, this raises, and may be called again."""
        if isinstance(self._state, Home):
            return
        state = self._state = self._state.without_hooks()
        with ExitStack() as all_of_them:  # also after one that fails
            for hooks in state.hooks:
                all_of_them.callback(hooks.detach)
        self._state = Home()

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
