"""The forward path: untouched where a model is not split, and the CPU cost of our hooks where it is.

python benchmarks/forward.py [--json] [--quick]
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from inside_comfyui import enter_comfyui
from records import Record, main
from torch import nn

from multigpu.multigpu_core.devices import CpuBackend, DeviceRegistry, default_registry
from multigpu.multigpu_core.execution import PinnedMemory, Streamer, TensorSlot
from multigpu.multigpu_core.execution.relay.relay import Relay
from multigpu.multigpu_core.execution.storage.packed_storage import PackedStorage


@dataclass(frozen=True)
class Repetitions:
    """How often each thing is timed: samplings, calls in a row, and rows of which the quickest counts."""

    samplings: int = 15
    calls: int = 2000
    rows: int = 9


QUICK = Repetitions(samplings=1, calls=60, rows=1)


def measure(often: Repetitions = Repetitions()) -> Iterator[Record]:
    inside = enter_comfyui()
    model = inside.whole()
    inside.sample(model)
    before = _median(lambda: inside.sample(model), often)
    inside.start()
    again = inside.whole()
    inside.sample(again)
    after = _median(lambda: inside.sample(again), often)
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in again.model.modules())
    yield Record("hooks on a model that is not split (must be 0)", hooks, "hooks")
    yield Record("its time with us over without us, in one run", after / before, "times")
    yield Record("hooks around one streamed block of twenty layers", _hook_microseconds(often), "µs", bound=30)
    relayed = _relay_microseconds(60, often) - _relay_microseconds(20, often)
    yield Record("hooks around one relayed block of twenty layers", relayed / 40, "µs", bound=30)


def _median(run: Callable[[], object], often: Repetitions) -> float:
    seconds = []
    for _ in range(often.samplings):
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


class _Block(nn.Module):
    """A block of twenty layers that compute nothing, so that only the calls are left."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer() for _ in range(20))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def _slots(path: str, block: nn.Module) -> tuple[TensorSlot, ...]:
    layers = ((name, owner) for name, owner in block.named_modules() if isinstance(owner, _Layer))
    return tuple(TensorSlot(f"{path}.{name}.weight", owner, "weight") for name, owner in layers)


class _Stream:
    """A queue that takes no time, so that the host's part is left."""

    device = torch.device("cpu")

    def wait_event(self, event: object) -> None: ...
    def wait_stream(self, stream: object) -> None: ...
    def synchronize(self) -> None: ...


class _Event:
    def record(self, stream: object) -> None: ...


class _Streams:
    def Stream(self, device: object = None) -> _Stream:  # noqa: N802
        return _Stream()

    def Event(self) -> _Event:  # noqa: N802
        return _Event()

    def current_stream(self, device: object = None) -> _Stream:
        return _Stream()

    def stream(self, stream: object) -> nullcontext[None]:
        return nullcontext()


class _CpuWithStreams(CpuBackend):
    @property
    def streams(self) -> Any:
        return _Streams()

    def empty_pinned(self, size_bytes: int) -> torch.Tensor:
        return torch.empty(size_bytes, dtype=torch.uint8)


def _hook_microseconds(often: Repetitions) -> float:
    """Microseconds of the host that our hooks add to a streamed block, its copy of a few bytes included."""
    model = nn.ModuleDict({"block": _Block()})
    x = torch.zeros(1)

    def microseconds() -> float:
        begin = time.process_time()
        for _ in range(often.calls):
            model["block"](x)
        return (time.process_time() - begin) / often.calls * 1e6

    bare = min(microseconds() for _ in range(often.rows))
    registry = DeviceRegistry([_CpuWithStreams()])
    locked = PinnedMemory(registry, 2**30)
    streamer = Streamer(registry, "cpu", locked, 0)
    slots = _slots("block", model["block"])
    assert PackedStorage(registry, "cpu", locked).store(slots, "cpu")
    streamer.attach(model, {"block": slots})
    return min(microseconds() for _ in range(often.rows)) - bare


class _Chain(nn.Module):
    """Blocks that are given what those of a transformer are: two streams of activations, and two constants."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Pair() for _ in range(count))

    def forward(self, image: torch.Tensor, text: torch.Tensor, vector: torch.Tensor, pe: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            image, text = block(image, text, vector, pe, mask=None)
        return image


class _Pair(_Block):
    def forward(self, image: torch.Tensor, text: torch.Tensor, *_: Any, **__: Any) -> Any:
        return super().forward(image), text


def _relay_microseconds(count: int, often: Repetitions) -> float:
    """Microseconds of the host for a step with that many relayed blocks in a row, the blocks' own taken off.

    The two hops are in it, once.
    """
    registry = default_registry()
    model = _Chain(count).to("npu:0")
    given = [torch.zeros(1, device="npu:0") for _ in range(4)]

    def microseconds() -> float:
        begin = time.process_time()
        for _ in range(often.calls // count):
            model(*given)
        return (time.process_time() - begin) / (often.calls // count) * 1e6

    bare = min(microseconds() for _ in range(often.rows))
    model.blocks[1:].to("npu:1")  # type: ignore[operator]
    slots = {f"blocks.{index}": _slots(f"blocks.{index}", block) for index, block in enumerate(model.blocks)}
    relay = Relay(registry, "npu:0")
    relay.attach(model, slots, dict.fromkeys(list(slots)[1:], "npu:1"))
    model(*given)
    return min(microseconds() for _ in range(often.rows)) - bare


if __name__ == "__main__":
    main("The forward path", measure, quick=partial(measure, QUICK))
