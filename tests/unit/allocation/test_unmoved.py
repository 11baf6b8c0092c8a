"""A split that moves nothing warns, and only such a split."""

from __future__ import annotations

from typing import Any

import pytest

from multigpu.multigpu_core.allocation import AllocationMode, AllocationRequest, parse_expert, plan_allocation
from multigpu.multigpu_core.allocation.unmoved import warned_if_unmoved

from .planner.planning import GIB, machine, model

DEVICES = machine({"cuda:0": 8 * GIB, "cuda:1": 8 * GIB, "cpu": 64 * GIB})
VIRTUAL: dict[str, Any] = {"mode": AllocationMode.VIRTUAL_VRAM, "donors": ("cpu",)}
SINGLE_LAYERS, BLOCKS = model(head=GIB), model(*[GIB] * 4)
LEFT = "The split leaves the whole model on cuda:0"


def _warnings(inventory: Any, request: AllocationRequest) -> tuple[str, ...]:
    return warned_if_unmoved(plan_allocation(inventory, request, DEVICES), request).warnings


def _expert(string: str) -> AllocationRequest:
    return parse_expert(string, compute_device="cuda:0", known=[info.name for info in DEVICES])


@pytest.mark.parametrize(
    "request_", [_expert("cuda:0,50%;cpu,50%"), AllocationRequest("cuda:0", **VIRTUAL, virtual_vram_bytes=GIB)]
)
def test_a_model_without_blocks_warns_in_every_mode(request_: AllocationRequest) -> None:
    assert any(each.startswith(LEFT) and "no blocks" in each for each in _warnings(SINGLE_LAYERS, request_))
    assert not any(each.startswith(LEFT) for each in _warnings(BLOCKS, request_))


def test_an_amount_below_a_block_warns_and_a_share_below_one_is_named_by_the_planner_alone() -> None:
    assert any(
        "less than a block" in each
        for each in _warnings(BLOCKS, AllocationRequest("cuda:0", **VIRTUAL, virtual_vram_bytes=1))
    )
    assert not any(each.startswith(LEFT) for each in _warnings(BLOCKS, _expert("cuda:0,99.9%;cpu,0.1%")))


@pytest.mark.parametrize(
    "request_",
    [AllocationRequest("cuda:0"), AllocationRequest("cuda:0", AllocationMode.AUTO), _expert("cuda:0,100%;cpu,0%")],
)
def test_what_asks_for_nothing_elsewhere_is_not_warned_of(request_: AllocationRequest) -> None:
    assert not _warnings(SINGLE_LAYERS, request_)
