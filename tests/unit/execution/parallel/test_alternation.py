"""Two calls that take turns: in which order they run, and how both end when one of them fails."""

from __future__ import annotations

import gc
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import pytest

from multigpu.multigpu_core.execution.parallel.alternation import Abandoned, Alternation

SECONDS = 30
"""No test waits that long for anything that happens."""


class Stop(BaseException):
    """As ComfyUI's interrupt: not an Exception."""


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def steps(
    alternation: Alternation[str],
    name: str,
    said: list[str],
    count: int,
    fail: dict[int, BaseException] | None = None,
) -> Callable[[], str]:
    """A call of so many steps that hands over between them, and says what it does."""

    def call() -> str:
        try:
            for step in range(count):
                if step:
                    alternation.hand_over()
                said.append(f"{name}{step}")
                if fail and step in fail:
                    raise fail[step]
        except Abandoned:
            said.append(f"{name} abandoned")
            raise
        return name

    return call


def test_calls_take_turns_and_return_what_they_return() -> None:
    said: list[str] = []
    alternation = Alternation[str]()
    assert alternation.run(steps(alternation, "a", said, 3), steps(alternation, "b", said, 3)) == ["a", "b"]
    assert said == ["a0", "b0", "a1", "b1", "a2", "b2"]


@pytest.mark.parametrize(
    ("a", "b", "order"),
    [
        (1, 3, ["a0", "b0", "b1", "b2"]),
        (3, 1, ["a0", "b0", "a1", "a2"]),
        (4, 2, ["a0", "b0", "a1", "b1", "a2", "a3"]),
    ],
)
def test_the_longer_call_goes_on_alone(a: int, b: int, order: list[str]) -> None:
    said: list[str] = []
    alternation = Alternation[str]()
    assert alternation.run(steps(alternation, "a", said, a), steps(alternation, "b", said, b)) == ["a", "b"]
    assert said == order


@pytest.mark.parametrize("kind", [ValueError, Stop, KeyboardInterrupt])
@pytest.mark.parametrize("step", range(3))
def test_an_error_of_the_first_ends_the_second(kind: type[BaseException], step: int) -> None:
    said: list[str] = []
    error = kind("as expected")
    alternation = Alternation[str]()
    first, second = steps(alternation, "a", said, 3, {step: error}), steps(alternation, "b", said, 3)
    with pytest.raises(kind) as raised:
        alternation.run(first, second)
    assert raised.value is error
    assert said[-1] == (f"a{step}" if step == 0 else "b abandoned")
    assert f"b{step}" not in said


@pytest.mark.parametrize("kind", [ValueError, Stop, KeyboardInterrupt])
@pytest.mark.parametrize("step", range(3))
def test_an_error_of_the_second_ends_the_first(kind: type[BaseException], step: int) -> None:
    said: list[str] = []
    error = kind("as expected")
    alternation = Alternation[str]()
    first, second = steps(alternation, "a", said, 4), steps(alternation, "b", said, 3, {step: error})
    with pytest.raises(kind) as raised:
        alternation.run(first, second)
    assert raised.value is error
    assert said[-2:] == [f"b{step}", "a abandoned"]


def test_an_error_of_the_second_is_raised_when_the_first_has_ended_already() -> None:
    said: list[str] = []
    alternation = Alternation[str]()
    with pytest.raises(ValueError):
        alternation.run(steps(alternation, "a", said, 1), steps(alternation, "b", said, 3, {2: ValueError()}))
    assert said == ["a0", "b0", "b1", "b2"]


def test_model_code_that_swallows_exceptions_does_not_go_on_when_the_other_has_failed() -> None:
    said: list[str] = []
    alternation = Alternation[str]()

    def swallowing() -> str:
        try:
            alternation.hand_over()
        except Exception:
            said.append("swallowed")
        said.append("went on")
        return "a"

    with pytest.raises(ValueError):
        alternation.run(swallowing, steps(alternation, "b", said, 1, {0: ValueError()}))
    assert said == ["b0"]


def test_what_the_second_held_when_it_failed_is_freed_with_its_error() -> None:
    class Memory:
        pass

    held: list[weakref.ref[Memory]] = []
    alternation = Alternation[None]()

    def failing() -> None:
        memory = Memory()
        held.append(weakref.ref(memory))
        raise ValueError

    gc.disable()
    try:
        try:
            alternation.run(alternation.hand_over, failing)
        except ValueError:
            assert held[0]() is not None
        assert held[0]() is None, "without a collection: running out of memory is tried again at once"
    finally:
        gc.enable()


def test_the_second_sees_the_context_of_the_first() -> None:
    name: ContextVar[str] = ContextVar("name", default="none")
    name.set("the caller's")
    alternation = Alternation[str]()
    assert alternation.run(name.get, name.get) == ["the caller's"] * 2


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="signals are sent to threads on POSIX only")
@pytest.mark.parametrize("first_has_ended", [False, True])
def test_ctrl_c_while_the_second_runs_ends_it_before_it_is_raised(first_has_ended: bool) -> None:
    assert threading.current_thread() is threading.main_thread(), "Python raises it there"
    said: list[str] = []
    raised, done = threading.Event(), threading.Event()
    alternation = Alternation[None]()

    def interrupt(*args: object) -> None:
        if not raised.is_set():
            raised.set()
            raise KeyboardInterrupt

    def first() -> None:
        if first_has_ended:
            return
        try:
            alternation.hand_over()
        finally:
            said.append("first unwinds")

    def second() -> None:
        while not raised.wait(0.01):  # Python sees a signal at once, or, if it comes just before a wait, after it
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        said.append("second runs")
        try:
            while not done.wait(0):  # it may come to a few before the main thread has said that it is over
                alternation.hand_over()
        finally:
            said.append("second unwinds")

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            alternation.run(first, second)
    finally:
        done.set()
        signal.signal(signal.SIGINT, before)
    assert said == ["second runs", "second unwinds", *([] if first_has_ended else ["first unwinds"])]


def test_three_calls_take_turns_and_the_longest_goes_on_alone() -> None:
    said: list[str] = []
    alternation = Alternation[str]()
    calls = [steps(alternation, name, said, count) for name, count in (("a", 1), ("b", 4), ("c", 2))]
    assert alternation.run(*calls) == ["a", "b", "c"]
    assert said == ["a0", "b0", "c0", "b1", "c1", "b2", "b3"]


@pytest.mark.parametrize("failing", range(3))
def test_an_error_of_one_of_three_ends_the_others_one_after_the_other(failing: int) -> None:
    said: list[str] = []
    error = ValueError("as expected")
    alternation = Alternation[str]()
    calls = [
        steps(alternation, name, said, 3, {1: error} if index == failing else None) for index, name in enumerate("abc")
    ]
    with pytest.raises(ValueError) as raised:
        alternation.run(*calls)
    assert raised.value is error
    others = [f"{name} abandoned" for name in "abc" if name != "abc"[failing]]
    assert sorted(said[said.index(f"{'abc'[failing]}1") + 1 :]) == others


def test_a_single_call_runs_alone() -> None:
    said: list[str] = []
    alternation = Alternation[str]()
    assert alternation.run(steps(alternation, "a", said, 2)) == ["a"]
