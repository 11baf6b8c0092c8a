"""A replica: the same model on another device, with its own copy of what the compute device stores.

    host memory           pinned weights, once ────────────┐
                               │ streamed                  │ streamed
    compute device   [the model]──copied──▶ device   [its replica]

What the model stores elsewhere, the replica shares: it is streamed to both from one place, to each over its own link.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from multigpu.multigpu_core.allocation import Block
from multigpu.multigpu_core.allocation.inventory.stored_size import tensor_bytes
from multigpu.multigpu_core.devices import DeviceRegistry
from multigpu.multigpu_core.execution.device_copies import DeviceCopies
from multigpu.multigpu_core.execution.device_guard import CurrentDevice
from multigpu.multigpu_core.execution.storage.packed_layout import copied_to
from multigpu.multigpu_core.execution.storage.pinned_memory import PinnedMemory
from multigpu.multigpu_core.execution.storage.tensor_parts import parts_of
from multigpu.multigpu_core.execution.storage.tensor_slots import TensorSlot, put_all, slots_by_tensor, slots_of_module
from multigpu.multigpu_core.execution.streaming.called_modules import called_modules
from multigpu.multigpu_core.execution.streaming.streamer import Streamer

from .structure import Appearance, copied_structure


class Replica:
    """One model's replica on one device. `mirror` makes it like the model, `attach` lets it be called."""

    def __init__(
        self, registry: DeviceRegistry, compute: str, device: str, locked: PinnedMemory, staging_bytes: int
    ) -> None:
        self.name = device
        self.device = registry.torch_device(device)
        self.module: nn.Module = nn.Module()
        self._compute = registry.torch_device(compute)
        self._device_copies = DeviceCopies(registry)
        self._streams = registry.streams(device)
        self._streamer = Streamer(registry, device, locked, staging_bytes)
        self._current_device = CurrentDevice(registry, device)
        self._appearance: Appearance | None = None
        self._own: dict[str, TensorSlot] = {}
        self._copies: dict[int, tuple[weakref.ref[Tensor], int | None, Tensor]] = {}
        """By the id of the model's own tensor: that tensor, how often it was written to, and the copy."""
        self._handles: list[RemovableHandle] = []

    @property
    def stored_bytes(self) -> int:
        """Bytes of weights that the replica has to itself."""
        return sum(tensor_bytes(copy) for _, _, copy in self._copies.values())

    @property
    def staging_bytes(self) -> int:
        return self._streamer.staging_bytes

    def is_like(self, model: nn.Module) -> bool:
        """Whether the replica has the model's modules, and of each weight the copy of what that is now."""
        if self._appearance is None or not self._appearance.is_that_of(model):
            return False
        return all(self._is_mirrored(slot) for slot in slots_of_module(model).values())

    def mirror(self, model: nn.Module) -> None:
        """Make the replica like the model, whose weights are in their places: only what has changed is copied.

        Hooks on the model are the replica's, too, as they are when its structure is copied.
        """
        if self._appearance is None or not self._appearance.is_that_of(model):
            self._unhook()
            _empty(self.module)
            self.module = copied_structure(model, self._compute, self.device)
            self._appearance = Appearance(model)
            self._own = slots_of_module(self.module)
        groups = list(slots_by_tensor(slots_of_module(model).values()))
        here = {id(same[0].tensor) for same in groups if same[0].tensor.device == self._compute}
        self._forget(key for key in self._copies if key not in here)
        for same in groups:
            tensor = same[0].tensor
            put_all([self._own[slot.name] for slot in same], self._copy_of(tensor) if id(tensor) in here else tensor)

    def attach(
        self,
        blocks: Sequence[Block],
        streamed: Sequence[Block],
        parts: Sequence[Block],
        before_block: Callable[[], object],
    ) -> None:
        """Let the replica be called. `before_block` is called before each block; of all `parts` some are streamed."""
        self._unhook()
        self._current_device.attach(self.module)
        self._streamer.attach(self.module, {part.name: self._slots_of(part) for part in streamed}, parts)
        self._handles = hooks_before_blocks(self.module, blocks, before_block)

    def detach(self) -> None:
        """Free all that the replica has on its device."""
        self._unhook()
        self.wait()
        _empty(self.module)
        self.module, self._appearance = nn.Module(), None
        self._own.clear()
        self._copies.clear()

    def suspend(self) -> None:
        """Hold on to no memory that weights are about to leave; `mirror` and `attach` follow."""
        self._unhook()

    def settle(self) -> None:
        """Undo what a forward that was broken off left behind."""
        self._streamer.settle()
        self._current_device.settle()

    def forget_copies(self) -> None:
        """Say that the model's weights were written to in place, where torch may not have counted it."""
        self._streamer.forget_copies()
        self._copies = {key: (tensor, None, copy) for key, (tensor, _, copy) in self._copies.items()}

    def save_memory(self) -> None:
        """Keep no more for staging than the largest streamed block needs."""
        self._streamer.save_memory()

    def wait(self) -> None:
        """Let the host wait until the device has nothing left to do: memory of the replica may then be freed."""
        if self._streams is not None:
            self._streams.current_stream(self.device).synchronize()

    def _unhook(self) -> None:
        self._streamer.detach()
        self._current_device.detach()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _slots_of(self, block: Block) -> tuple[TensorSlot, ...]:
        return tuple(self._own[name] for name in block.parameters)

    def _is_mirrored(self, slot: TensorSlot) -> bool:
        tensor = slot.tensor
        is_copied = tensor.device == self._compute
        return self._is_known(tensor) if is_copied else self._own[slot.name].tensor is tensor

    def _is_known(self, tensor: Tensor) -> bool:
        original, writes, _ = self._copies.get(id(tensor), (None, None, None))
        return original is not None and original() is tensor and writes == _writes(tensor)

    def _copy_of(self, tensor: Tensor) -> Tensor:
        if not self._is_known(tensor):
            self._forget([id(tensor)])  # its memory is free before it is needed again
            with (
                torch.inference_mode(False),
                torch.no_grad(),
                self._device_copies.beside(tensor.device, self.device),
            ):
                copy = copied_to(tensor, self.device, non_blocking=self._streams is not None)
            self._copies[id(tensor)] = weakref.ref(tensor), _writes(tensor), copy
        return self._copies[id(tensor)][2]

    def _forget(self, keys: Iterable[int]) -> None:
        for key in list(keys):
            self._copies.pop(key, None)


def hooks_before_blocks(model: nn.Module, blocks: Iterable[Block], call: Callable[[], object]) -> list[RemovableHandle]:
    """Have `call` called before each of these blocks of a model."""

    def before(*_: object) -> None:
        call()

    (hook,) = map(torch.compiler.disable, (before,))  # a compiled block is not to be compiled with it
    modules = dict(model.named_modules())
    roots = [modules[block.name] for block in blocks if block.name in modules]
    return [called.register_forward_pre_hook(hook, prepend=True) for root in roots for called in called_modules(root)]


def _empty(replica: nn.Module) -> None:
    """Take all tensors out of a replica's modules, which may refer to each other and live on until a collection."""
    for module in replica.modules():
        module._parameters.clear()
        module._buffers.clear()


def _writes(tensor: Tensor) -> int | None:
    """How often a tensor was written to in place; -1 where torch does not count. None would never be equal."""
    parts = [part for part in parts_of(tensor) if not part.is_inference()]
    return sum(part._version for part in parts) if parts else -1
