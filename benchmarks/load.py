"""What loading a split model takes: peaks by the simulated accelerators' own accounting, and what 30 loads leave.

python benchmarks/load.py [--json] [--quick]
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from functools import partial

from inside_comfyui import enter_comfyui
from records import Record, main

from multigpu.testing import HostMemoryMeter

SPLIT = "npu:0,20%;npu:1,40%;cpu,40%"
CYCLES = 30


def measure(cycles: int = CYCLES) -> Iterator[Record]:
    inside = enter_comfyui()
    inside.start()
    import comfy.model_management as mm

    split = inside.split(SPLIT)
    inside.machine.reset_peaks()
    with HostMemoryMeter() as host:
        mm.load_models_gpu([split])
    plan = split.multigpu_placement.distribution.plan
    largest = split.multigpu_placement.distribution.inventory.largest_block_bytes
    for device in inside.machine.devices:
        beside = max(largest, plan.staging_bytes) if device.name == plan.compute_device else largest
        bound = plan.bytes_by_device[device.name] + beside
        yield Record(f"peak on {device.name} (share, and staging or largest block)", device.peak_bytes, "bytes", bound)
    bound = plan.bytes_by_device["cpu"] + largest
    yield Record("peak in host memory beyond the file (share, and largest block)", host.peak_bytes, "bytes", bound)
    split.detach()
    with HostMemoryMeter() as host:
        for _ in range(cycles):
            mm.load_models_gpu([split])
            split.detach()
        gc.collect()
        model_bytes = sum(value.nbytes for value in split.model.state_dict().values())
        yield Record(f"host memory after {cycles} loads (the model itself)", host.live_bytes, "bytes", model_bytes)
    for device in inside.machine.devices:
        yield Record(f"left on {device.name} after {cycles} loads (must be 0)", device.live_bytes, "bytes")


if __name__ == "__main__":
    main(f"Loading a tiny Flux split {SPLIT}", measure, quick=partial(measure, cycles=3))
