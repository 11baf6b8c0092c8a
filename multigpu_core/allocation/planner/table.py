"""A plan as a table, for the log and the command line."""

from __future__ import annotations

from collections import Counter
from string import ascii_uppercase

from multigpu.multigpu_core.allocation.language.amounts import readable_bytes

from .plan import AllocationPlan, BlockShare, block_shares
from .step_time import TOKENS, StepPrediction

_BAR_WIDTH = 20
_LINE_WIDTH = 64
_LONGEST_MAP = 256
"""Blocks beyond which a map of them is no longer readable."""


def plan_table(plan: AllocationPlan, prediction: StepPrediction | None = None) -> str:
    """Lines of plain ASCII: bytes by device, the device of every block in execution order, and the expert string.

    A block whose layers are on several devices counts where the most of it is.

    With a prediction, also what a step is expected to take.
    """
    sizes = plan.bytes_by_device
    total = sum(sizes.values())
    letters = dict(zip(sizes, ascii_uppercase, strict=False))
    devices = _device_of_each_block(plan)
    counts = dict.fromkeys(sizes, 0) | Counter(devices)
    width = max(len("device"), *map(len, sizes))
    lines = [
        f"{readable_bytes(total)} on {len(sizes)} device{'s'[: len(sizes) != 1]}, {plan.strategy.name}",
        f"    {'device':<{width}} {'blocks':>7} {'stores':>9} {'%':>6}",
    ]
    for device, size in sizes.items():
        part = size / total if total else 0.0
        bar = "#" * round(part * _BAR_WIDTH)
        role = "  computes" if device == plan.compute_device else ""
        lines.append(
            f"  {letters.get(device, '?')} {device:<{width}} {counts[device]:>7} {readable_bytes(size):>9} {part:>6.1%}"
            f"  {bar:<{_BAR_WIDTH}}{role}".rstrip()
        )
    if plan.staging_bytes:
        reason = f": {plan.staging_reason}" if plan.staging_reason else ""
        lines.append(
            f"  + {readable_bytes(plan.staging_bytes)} of {plan.compute_device} reserved for streaming{reason}"
        )
    if plan.work_shares:
        lines.append(f"  work: {_work(plan)}; each stores the same as {plan.compute_device}")
    lines += _block_map(devices, letters) if plan.offloaded else []
    if prediction is not None and plan.offloaded:
        lines.append(
            f"  a {_unit(plan)} of {TOKENS:,} tokens: {prediction.step_seconds:.3g} s predicted, "
            f"{prediction.limit_seconds:.3g} s at best, bound by {_bound(prediction)}"
        )
        if prediction.assumes:
            lines.append(f"    assumes {prediction.assumes}; measure to replace")
    lines += [f"  to reproduce: {plan.expert_string}"]
    return "\n".join(lines)


def _work(plan: AllocationPlan) -> str:
    total = sum(share.amount for share in plan.work_shares)
    return ", ".join(f"{share.device} {share.amount / total:.0%}" for share in plan.work_shares)


def _unit(plan: AllocationPlan) -> str:
    """What a prediction is for: devices with a replica each do passes at the same time."""
    return "pass through one replica" if plan.work_shares else "step"


def _bound(prediction: StepPrediction) -> str:
    return "computing" if prediction.bound_by == "compute" else f"the link from {prediction.bound_by}"


def _device_of_each_block(plan: AllocationPlan) -> list[str]:
    """Where the most of each block is stored, in execution order."""
    largest: dict[str, BlockShare] = {}
    for share in block_shares(plan.placements):
        known = largest.get(share.name)
        if known is None or share.size_bytes > known.size_bytes:
            largest[share.name] = share
    return [share.device for share in largest.values()]


def _block_map(devices: list[str], letters: dict[str, str]) -> list[str]:
    """One letter for each block, in execution order; nothing where it would be too long."""
    if len(devices) > _LONGEST_MAP:
        return []
    order = "".join(letters.get(device, "?") for device in devices)
    return [f"  {order[i : i + _LINE_WIDTH]}" for i in range(0, len(order), _LINE_WIDTH)]
