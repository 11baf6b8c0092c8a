"""A strategy: `ending` offloads the end of the model, where the built-in `contiguous` offloads its beginning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from multigpu import hookimpl
from multigpu.api import Block, Strategy


def assign(
    blocks: Sequence[Block], compute_device: str, target_bytes: Mapping[str, int], free_bytes: Mapping[str, int]
) -> list[str]:
    devices = []
    left = dict(target_bytes)  # the compute device first
    for block in blocks:
        fitting = (name for name in left if left[name] >= block.size_bytes)
        device = next(fitting, max(left, key=lambda name: left[name]))
        left[device] -= block.size_bytes
        devices.append(device)
    return devices


@hookimpl
def multigpu_strategies() -> Iterable[Strategy]:
    return [Strategy("ending", "offloads the end of the model", assign)]
