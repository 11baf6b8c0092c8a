"""The table of a plan, as users see it in the log."""

from __future__ import annotations

from multigpu.multigpu_core.allocation import Strategy, plan_allocation, plan_table

from .planning import GIB, expert, machine, model

DEVICES = machine({"cpu": 64 * GIB, "cuda:0": 64 * GIB, "cuda:1": GIB // 2})


def test_the_table_shows_shares_the_order_of_blocks_and_the_string() -> None:
    request = expert("cuda:0,50%;cpu,50%", DEVICES, strategy=Strategy.CONTIGUOUS)
    table = plan_table(plan_allocation(model(*[GIB // 2] * 8), request, DEVICES))
    assert table.splitlines() == [
        "4.00 GB on 2 devices, contiguous",
        "    device  blocks    stores      %",
        "  A cuda:0       6   2.00 GB  50.0%  ##########            computes",
        "  B cpu          4   2.00 GB  50.0%  ##########",
        "  + 2.00 GB of cuda:0 reserved for streaming",
        "  ABBBBAAAAA",
        "  to reproduce: cuda:0,2147483648b;cpu,2147483648b",
    ]


def test_a_model_of_thousands_of_blocks_has_a_short_table_in_ascii() -> None:
    request = expert("cuda:0,50%;cpu,50%", DEVICES)
    table = plan_table(plan_allocation(model(*[10] * 5000), request, DEVICES))
    assert len(table.splitlines()) == 6
    assert table.isascii()
