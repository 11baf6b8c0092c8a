"""The order of calls is learned from what a model does, and not from a single exception."""

from __future__ import annotations

from collections.abc import Iterable

from multigpu.multigpu_core.execution.streaming.call_order import CallOrder


def run(order: CallOrder, *steps: Iterable[int]) -> list[bool]:
    return [order.entered(offloaded) for step in steps for offloaded in step]


def test_a_model_is_expected_to_run_as_its_inventory_says_until_it_has() -> None:
    order = CallOrder(range(3))
    run(order, (0, 2, 1))
    assert order.expected == (0, 1, 2)
    assert run(order, (0,)) == [True], "a second step begins"
    assert order.expected == (0, 2, 1)


def test_a_step_that_skips_a_block_now_and_then_teaches_nothing() -> None:
    order = CallOrder(range(3))
    run(order, (0, 1, 2), (0, 1, 2))
    for step in ((0, 2), (0, 1, 2), (0, 2), (0, 1, 2), (0,)):
        run(order, step)
        assert order.expected == (0, 1, 2)


def test_a_step_that_stays_different_is_learned() -> None:
    order = CallOrder(range(3))
    run(order, (0, 1, 2), (0, 2), (0, 2), (0,))
    assert order.expected == (0, 2)


def test_a_block_that_is_called_twice_comes_twice() -> None:
    order = CallOrder(range(3))
    run(order, (0, 1, 1, 2), (0,))
    assert order.expected == (0, 1, 1, 2)


def test_a_step_that_was_broken_off_teaches_nothing() -> None:
    order = CallOrder(range(3))
    run(order, (0, 1, 2), (0, 1))
    order.break_off()
    assert run(order, (0, 1, 2), (0,)) == [False, False, False, True]
    assert order.expected == (0, 1, 2)
