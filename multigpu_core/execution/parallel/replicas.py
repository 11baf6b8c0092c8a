"""The computing devices of a model that is replicated, and the work that they do at the same time.

The model itself computes on the first device, its replicas on the others. Each device has a thread for the length of a
piece of work, with its own current device; the threads take turns at the borders of blocks (alternation.py), and the
devices compute side by side. The host waits for none of them:

    host threads      [block 1]─┐         ┌─[block 2]─┐
                                └[block 1]┘           └[block 2]
    compute device      [block 1      ][block 2      ]
    replica's device              [block 1      ][block 2      ]

Devices without streams, and threads whose state cannot be taken along, work one after the other on the caller's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from multigpu.multigpu_core.allocation import AllocationPlan, Block
from multigpu.multigpu_core.devices import DeviceRegistry, DeviceStream
from multigpu.multigpu_core.execution.device_copies import DeviceCopies
from multigpu.multigpu_core.execution.nested import replace_tensors
from multigpu.multigpu_core.execution.storage.pinned_memory import PinnedMemory

from .alternation import Alternation
from .replica import Replica, hooks_before_blocks
from .side_effects import SideEffects
from .thread_state import is_portable, portable_state


@dataclass(frozen=True)
class Job:
    """What one device has to do: `call` is given the device's module, and `inputs` with their tensors on the device."""

    call: Callable[[nn.Module, Any], Any]
    inputs: Any


def work_for(items: int, shares: Sequence[int]) -> dict[int, list[int]]:
    """Which of some equal items each device gets, by its index, so that all end as soon as the shares allow.

    Devices that would only delay the end get none; neither do those without a share.
    """
    able = [device for device, share in enumerate(shares) if share] or [0]
    work: dict[int, list[int]] = {}
    for _ in range(items):
        device = min(able, key=lambda each: ((len(work.get(each, ())) + 1) / max(1, shares[each]), each))
        work.setdefault(device, []).append(0)
    numbers = iter(range(items))
    return {device: [next(numbers) for _ in work[device]] for device in sorted(work)}


class Replicas:
    """The model and its replicas, in the order of the plan's shares; the model itself is the first."""

    def __init__(self, registry: DeviceRegistry, plan: AllocationPlan, locked: PinnedMemory) -> None:
        self.shares: tuple[int, ...] = tuple(share.amount for share in plan.work_shares)
        self.failed_on: str | None = None
        """The device on which the last work failed."""
        self.filling: str | None = None
        """The device that weights are copied to, while they are."""
        self._registry = registry
        self._names = tuple(share.device for share in plan.work_shares)
        self._devices = tuple(registry.torch_device(name) for name in self._names)
        self._streams = [registry.streams(name) for name in self._names]
        self._device_copies = DeviceCopies(registry)
        self._replicas = [
            Replica(registry, plan.compute_device, name, locked, plan.staging_bytes) for name in plan.replica_devices
        ]
        self._model: nn.Module = nn.Module()
        self._handles: list[RemovableHandle] = []
        self._alternation: Alternation[Any] | None = None
        self._current: list[DeviceStream | None] = []
        self._is_working = False
        self._is_free_of_side_effects: dict[Hashable, bool] = {}

    @property
    def bytes_by_device(self) -> dict[str, int]:
        """Bytes of weights that each replica has to itself, by device name."""
        return {replica.name: replica.stored_bytes for replica in self._replicas}

    def mirror(self, model: nn.Module) -> None:
        """Make all replicas like the model, on which none of our hooks is, and whose weights are in their places."""
        self._unhook()
        self._model = model
        for replica in self._replicas:
            self.filling = replica.name
            replica.mirror(model)
        self.filling = None

    def attach(self, blocks: Sequence[Block], streamed: Sequence[Block], parts: Sequence[Block]) -> None:
        """Let the model and all replicas take turns before each of these blocks; of all `parts` some are streamed."""
        self._handles = hooks_before_blocks(self._model, blocks, self._hand_over)
        for replica in self._replicas:
            replica.attach(blocks, streamed, parts, self._hand_over)

    def are_like_the_model(self) -> bool:
        """Whether nobody has changed the model's modules or weights since `mirror`."""
        return all(replica.is_like(self._model) for replica in self._replicas)

    @property
    def are_working(self) -> bool:
        """Whether `run` has begun and not ended."""
        return self._is_working

    def run(self, jobs: Mapping[int, Job], kind: Hashable) -> dict[int, Any]:
        """Do each job on the device of its index. The results are on the first device, for its current stream.

        The first time that a kind of work is done (of these shapes, say), the model itself does all jobs, one after the
        other; if they leave something behind that another could see, it always does. Errors are raised when all jobs
        have ended.
        """
        self.failed_on = None
        self._is_working = True
        try:
            is_free = self._is_free_of_side_effects.get(kind, False)
            return self._run_on_devices(jobs) if is_free else self._run_on_the_model(jobs, kind)
        finally:
            self._is_working = False

    def detach(self) -> None:
        """Take all hooks off and free what the replicas have on their devices."""
        with ExitStack() as all_of_them:
            for replica in self._replicas:
                all_of_them.callback(replica.detach)
            all_of_them.callback(self._unhook)
        self._model = nn.Module()
        self._is_free_of_side_effects.clear()

    def suspend(self) -> None:
        """Hold on to no memory that weights are about to leave; `mirror` and `attach` follow."""
        for replica in self._replicas:
            replica.suspend()

    def settle(self) -> None:
        """Undo what a forward that was broken off left behind."""
        for replica in self._replicas:
            replica.settle()

    def forget_copies(self) -> None:
        """Say that weights were written to in place."""
        for replica in self._replicas:
            replica.forget_copies()

    def save_memory(self) -> None:
        """Keep as little for staging as possible."""
        for replica in self._replicas:
            replica.save_memory()

    @property
    def _is_concurrent(self) -> bool:
        return all(streams is not None for streams in self._streams) and is_portable()

    def _run_on_devices(self, jobs: Mapping[int, Job]) -> dict[int, Any]:
        self._current = [
            streams.current_stream(device) if streams is not None else None
            for streams, device in zip(self._streams, self._devices, strict=True)
        ]
        try:
            inputs = {index: self._brought(jobs[index].inputs, index) for index in jobs}
            calls = [partial(self._issue, index, jobs[index].call, inputs[index]) for index in jobs]
            results = self._run_at_once(calls) if self._is_concurrent else [call() for call in calls]
            return {index: self._home(result, index) for index, result in zip(jobs, results, strict=True)}
        finally:
            self._alternation = None
            self._current.clear()

    def _run_on_the_model(self, jobs: Mapping[int, Job], kind: Hashable) -> dict[int, Any]:
        results: dict[int, Any] = {}
        effects = None
        for index, job in jobs.items():
            if effects is None and results:
                effects = SideEffects(self._model, self._devices)
            results[index] = job.call(self._model, job.inputs)
        if kind not in self._is_free_of_side_effects and effects is not None:
            self._is_free_of_side_effects[kind] = not effects.have_happened()
        return results

    def _run_at_once(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        enter_state = portable_state({"cpu", *(device.type for device in self._devices)})

        def in_this_state(call: Callable[[], Any]) -> Any:
            with enter_state():
                return call()

        self._alternation = Alternation()
        first, *others = calls
        return self._alternation.run(first, *(partial(in_this_state, call) for call in others))

    def _unhook(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _hand_over(self) -> None:
        if self._alternation is not None:
            self._alternation.hand_over()

    def _issue(self, index: int, call: Callable[[nn.Module, Any], Any], inputs: Any) -> Any:
        module = self._model if index == 0 else self._replicas[index - 1].module
        with self._scope(index):
            try:
                return call(module, inputs)
            except BaseException as error:
                if index:
                    self._replicas[index - 1].settle()  # on this thread, whose current device it set
                if isinstance(error, Exception) and self.failed_on is None:
                    self.failed_on = self._names[index]
                raise

    @contextmanager
    def _scope(self, index: int) -> Iterator[None]:
        """On any thread, a replica's device is current in here, and its work goes to the caller's stream for it."""
        if index == 0:
            yield
            return
        with ExitStack() as scopes:
            scopes.enter_context(self._registry.device_scope(self._names[index]))
            streams, current = self._streams[index], self._current[index]
            if streams is not None and current is not None:
                scopes.enter_context(streams.stream(current))
            yield

    def _brought(self, tree: Any, index: int) -> Any:
        return tree if index == 0 else replace_tensors(tree, partial(self._to, self._devices[index]))

    def _home(self, tree: Any, index: int) -> Any:
        return tree if index == 0 else replace_tensors(tree, partial(self._to, self._devices[0]))

    def _to(self, device: torch.device, tensor: torch.Tensor) -> torch.Tensor:
        is_elsewhere = tensor.device in self._devices and tensor.device != device
        return self._device_copies.to(tensor, device) if is_elsewhere else tensor
