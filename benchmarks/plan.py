"""Planning 5,000 blocks over 9 devices, in every mode and strategy.

python benchmarks/plan.py [--json]
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from records import Record, main

from multigpu.multigpu_core.allocation import (
    AllocationWidgets,
    Block,
    BlockKind,
    Inventory,
    plan_allocation,
    request_from_widgets,
)
from multigpu.multigpu_core.devices import DeviceInfo
from multigpu.multigpu_core.strategies.built_in import built_in_strategies

GIB = 1 << 30
BLOCKS = 5000
CARDS = tuple(f"cuda:{index}" for index in range(8))
MODES = {
    "bytes": {"expert": ";".join(f"{card},2gb" for card in CARDS) + ";cpu,*"},
    "ratio": {"expert": ";".join(f"{card},11%" for card in CARDS) + ";cpu,12%"},
    "fraction": {"expert": ";".join(f"{card},0.1" for card in CARDS) + ";cpu,*"},
    "virtual VRAM": {"virtual_vram_gb": 20.0, "donors": ",".join((*CARDS[1:], "cpu"))},
    "auto": {"expert": "auto"},
}
REPEATS = 5


def measure() -> Iterator[Record]:
    sizes = [(5 + index * 7919 % 11) << 20 for index in range(BLOCKS)]
    inventory = Inventory(
        tuple(
            Block(f"blocks.{index}", BlockKind.TRANSFORMER, "bfloat16", size, (f"blocks.{index}.weight",))
            for index, size in enumerate(sizes)
        )
    )
    devices = [DeviceInfo("cpu", "cpu", None, "CPU", 256 * GIB, 256 * GIB, False, False)]
    devices += [
        DeviceInfo(card, "cuda", index, "card", 24 * GIB, 24 * GIB, True, True) for index, card in enumerate(CARDS)
    ]
    names = [device.name for device in devices]
    for strategy in built_in_strategies():
        for mode, widgets in MODES.items():
            request = request_from_widgets(AllocationWidgets("cuda:0", strategy=strategy, **widgets), names)
            if strategy.replicates and request.is_explicit:
                continue  # each GPU would store what these shares give to all of them together, and no GPU holds that
            seconds = []
            for _ in range(REPEATS):
                begin = time.perf_counter()
                plan_allocation(inventory, request, devices)
                seconds.append(time.perf_counter() - begin)
            yield Record(f"{mode}, {strategy.name}", min(seconds) * 1000, "ms", bound=50)


if __name__ == "__main__":
    main(f"Planning {BLOCKS} blocks over {len(CARDS) + 1} devices (best of {REPEATS})", measure)
