"""What steps moved and took, on a clock that the test sets."""

from __future__ import annotations

import time

import pytest

from multigpu.multigpu_core.execution.step_record import StepRecord


class Clock:
    """Stands in for `time.perf_counter`."""

    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_a_step_lasts_from_its_first_region_to_the_next_step_s(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    record = StepRecord()
    took = []
    for begins, is_new_step in ((100.0, False), (101.0, False), (103.0, True), (104.0, False), (108.0, True)):
        clock.seconds = begins
        record.entered(1, is_new_step)
        took.append(record.step_seconds)
    assert took == [None, None, 3.0, 3.0, 4.0], "the median of steps of 3 and 5 seconds"


def test_bytes_are_those_of_the_last_whole_step_and_of_the_running_one_while_it_is_the_first() -> None:
    record = StepRecord()
    seen = []
    for size, is_new_step in ((5, False), (7, False), (2, True), (3, False), (1, True)):
        record.entered(size, is_new_step)
        seen.append((record.step_bytes, record.total_bytes))
    assert seen == [(5, 5), (12, 12), (12, 14), (12, 17), (5, 18)]
