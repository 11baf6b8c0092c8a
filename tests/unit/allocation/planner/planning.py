"""Models and machines for the tests of the planner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from multigpu.multigpu_core.allocation import (
    AllocationPlan,
    AllocationRequest,
    Block,
    BlockKind,
    Inventory,
    Strategy,
    parse_expert,
    plan_allocation,
)
from multigpu.multigpu_core.devices import DeviceInfo

GIB = 1 << 30


def model(*sizes: int, head: int = 0, work: Sequence[int] = ()) -> Inventory:
    """Blocks of `sizes` between two heads of `head` bytes. `work` is in proportion to the sizes if it is not given."""
    heads = [Block(name, BlockKind.HEAD, "bfloat16", head, (f"{name}.weight",)) for name in ("img_in", "final_layer")]
    blocks = [
        Block(f"blocks.{i}", BlockKind.TRANSFORMER, "bfloat16", size, (f"blocks.{i}.weight",), each)
        for i, (size, each) in enumerate(zip(sizes, work or sizes, strict=True))
    ]
    return Inventory((heads[0], *blocks, heads[1]))


def layered(count: int, *layers: int, work: Sequence[int] = ()) -> Inventory:
    """So many equal blocks of layers of these sizes; `work` is in proportion to the sizes if it is not given."""

    def block(name: str) -> Block:
        parts = tuple(
            Block(f"{name}.{i}", BlockKind.TRANSFORMER, "bfloat16", size, (f"{name}.{i}.weight",), each, (), name)
            for i, (size, each) in enumerate(zip(layers, work or layers, strict=True))
        )
        parameters = tuple(parameter for part in parts for parameter in part.parameters)
        size, total = sum(part.size_bytes for part in parts), sum(part.work for part in parts)
        return Block(name, BlockKind.TRANSFORMER, "bfloat16", size, parameters, total, parts)

    return Inventory(tuple(block(f"blocks.{i}") for i in range(count)))


def machine(free: Mapping[str, int], total: Mapping[str, int] | None = None) -> list[DeviceInfo]:
    """A machine whose devices have that much free memory, and in all as much or `total`."""
    return [
        DeviceInfo(
            name=name,
            type=name.partition(":")[0],
            index=None,
            marketing_name=name,
            total_bytes=(total or free)[name],
            free_bytes=size,
            can_pin_host_memory=True,
            has_streams=name != "cpu",
        )
        for name, size in free.items()
    ]


def expert(
    text: str, devices: list[DeviceInfo], compute: str = "cuda:0", strategy: Strategy = Strategy.INTERLEAVE
) -> AllocationRequest:
    names = [info.name for info in devices]
    return parse_expert(text, compute_device=compute, known=names, strategy=strategy)


def planned_again(plan: AllocationPlan, inventory: Inventory, devices: list[DeviceInfo]) -> AllocationPlan:
    """The plan that the expert string of `plan` makes."""
    request = expert(plan.expert_string, devices, plan.compute_device, plan.strategy)
    return plan_allocation(inventory, request, devices)
