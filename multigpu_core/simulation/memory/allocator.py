"""The pieces of memory that simulated devices use: who uses them, and when freed ones are used again.

Memory of a device is given out as torch's caching allocator does it: what is freed goes back at once to the pool of the
stream that it was allocated on, and the next allocation on that stream may get it. Host memory is unpinned the moment
when it is freed, as by cudaHostUnregister.
"""

from __future__ import annotations

import ctypes
import weakref
from collections import deque
from collections.abc import Iterator

import torch
from torch import Tensor

from multigpu.multigpu_core.simulation.deferral import POISON
from multigpu.multigpu_core.simulation.time.host_threads import Host, Knowledge, Mark
from multigpu.multigpu_core.simulation.time.races import AccessLog
from multigpu.multigpu_core.simulation.time.streams import SimulatedStream


class Block:
    """One storage: the host bytes behind it, and what uses them. `stream` is None for pinned host memory."""

    def __init__(self, memory: Tensor, stream: SimulatedStream | None) -> None:
        self.memory: Tensor | None = memory
        """None where nobody is interested in freed memory."""
        self.stream = stream
        self.accesses = AccessLog("cpu" if stream is None else str(stream.device))
        self.users: dict[int, SimulatedStream] = {}
        """The streams that `record_stream` has named."""
        self.waits_for: tuple[Mark, ...] = ()
        """What those were given when the block was freed: the allocator waits for it."""
        self.known_when_freed: Knowledge = {}
        """What the host had waited for by then."""

    def like(self, tensor: Tensor) -> Tensor:
        """A CPU tensor over what `tensor`, which lies in this block, shows; it keeps the bytes alive."""
        assert self.memory is not None, "it is alive"
        view = torch.empty(0, dtype=tensor.dtype)
        return view.set_(self.memory.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())


class Blocks:
    """All blocks of a machine, by the address of their storage."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._alive: dict[int, Block] = {}
        self._unlocked: dict[int, Block] = {}
        self._pinned: dict[int, int] = {}
        self._pools: dict[int, list[Block]] = {}
        # Storages die wherever the garbage collector runs: an append is atomic and takes no lock.
        self._freed: deque[Block] = deque()
        self._unpinned: deque[Block] = deque()
        self.keeps_freed = False
        """Whether freed blocks of devices keep their bytes until they are used again, and memory begins as poison."""

    def add(self, storage: torch.UntypedStorage, memory: Tensor, stream: SimulatedStream) -> None:
        """Know a storage of a device, which shows this memory, until it is freed."""
        address = storage.data_ptr()
        self._alive[address] = block = Block(memory, stream)
        weakref.finalize(storage, self._free, address, block).atexit = False

    def pinned(self, size_bytes: int) -> Tensor:
        """Fresh host memory that is pinned until it is freed."""
        memory = torch.empty(size_bytes, dtype=torch.uint8)
        if not size_bytes:
            return memory
        address = memory.data_ptr()
        if self.keeps_freed:
            ctypes.memset(address, POISON, size_bytes)
        # What is handed out is told to be freed before its bytes are: work that is under way may still want them.
        owner = (ctypes.c_uint8 * size_bytes).from_address(address)
        owner.memory = memory  # type: ignore[attr-defined]
        self._alive[address] = block = Block(memory, None)
        self._pinned[address] = size_bytes
        weakref.finalize(owner, self._unpin, address, size_bytes, block).atexit = False
        return torch.frombuffer(owner, dtype=torch.uint8)

    def unlock(self, memory: Tensor) -> Block | None:
        """Take pinned memory as ordinary from now on, until it is freed or locked; None if it is so already."""
        address = memory.untyped_storage().data_ptr()
        if self._pinned.pop(address, None) is None:
            return None
        block = self._unlocked[address] = self._alive.pop(address)
        return block

    def lock(self, memory: Tensor) -> None:
        """Page-lock again what `unlock` has made ordinary."""
        storage = memory.untyped_storage()
        block = self._unlocked.pop(storage.data_ptr(), None)
        if block is not None:
            self._alive[storage.data_ptr()] = block
            self._pinned[storage.data_ptr()] = storage.nbytes()

    @property
    def locked_bytes(self) -> int:
        return sum(self._pinned.copy().values())

    def of(self, tensor: Tensor) -> Block | None:
        """The block in which a tensor lies; None for ordinary host memory."""
        return self._alive.get(tensor.untyped_storage().data_ptr())

    def is_pinned(self, tensor: Tensor) -> bool:
        return tensor.device.type == "cpu" and tensor.untyped_storage().data_ptr() in self._pinned

    def used_again(self, stream: SimulatedStream) -> Iterator[Block]:
        """The freed blocks that an allocation on a stream may get now; each is told once."""
        while self._freed:
            block = self._freed.popleft()
            assert block.stream is not None, "it is a device's"
            self._pools.setdefault(block.stream.stream_id, []).append(block)
        yield from self._pools.pop(stream.stream_id, ())

    def unpinned(self) -> Iterator[Block]:
        """The pinned blocks that were freed; each is told once."""
        while self._unpinned:
            yield self._unpinned.popleft()

    def forget_accesses(self) -> None:
        """Take all that was done so far as long past."""
        self._pools.clear()
        self._freed.clear()
        self._unpinned.clear()
        for block in self._alive.copy().values():
            block.accesses.clear()

    def _free(self, address: int, block: Block) -> None:
        self._alive.pop(address, None)
        # No generator: the tracer of torch.compile follows finalizers as well, and a generator makes it fail there.
        block.waits_for = tuple([stream.mark for stream in block.users.values()])
        if not self.keeps_freed:
            block.memory = None
        self._freed.append(block)

    def _unpin(self, address: int, size_bytes: int, block: Block) -> None:
        self._alive.pop(address, None)
        self._unlocked.pop(address, None)
        self._pinned.pop(address, None)
        if self.keeps_freed:  # a copy that is under way finds what it should not
            ctypes.memset(address, POISON, size_bytes)
        block.memory = None
        block.known_when_freed = self._host.knows.copy()
        self._unpinned.append(block)
