"""Work for the prompt worker: when it runs, what becomes of it when it cannot, and how a worker's death is noticed."""

from __future__ import annotations

import asyncio
import importlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from ..support.in_process import ComfyUI


class _Server:
    prompt_queue: Any = None

    def queue_updated(self) -> None:
        pass


@dataclass
class Worker:
    """ComfyUI's queue with a thread that takes prompts from it as ComfyUI's does, and our `PromptWorker`."""

    queue: Any
    ours: Any
    done: list[str] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    """The errors that reached whoever listened to threads' ends before us."""
    thread: threading.Thread | None = None

    def start(self) -> None:
        self.thread = threading.Thread(target=self._work, name="a worker", daemon=True)
        self.thread.start()

    def prompt(self, deed: Callable[[], None]) -> None:
        """Queue a prompt that does something."""
        number = len(self.queue.history)
        self.queue.put((number, f"prompt {number}", deed, {}, [], {}))

    def end(self) -> None:
        def leave() -> None:
            raise SystemExit

        self.prompt(leave)
        assert self.thread is not None
        self.thread.join(30)

    def _work(self) -> None:
        while True:
            self.ours.take_turn(self.queue)  # as the replaced PromptQueue.get does
            found = self.queue.get(timeout=1000)
            if found is not None:
                item, item_id = found
                item[2]()
                self.queue.task_done(item_id, {}, None)
                self.done.append(item[1])
            self.queue.get_flags()


@pytest.fixture
def worker(comfyui: ComfyUI) -> Iterator[Worker]:
    module = importlib.import_module("multigpu.multigpu_core.comfy.host.prompt_worker")
    queue = importlib.import_module("execution").PromptQueue(_Server())
    worker = Worker(queue, module.PromptWorker(queue))
    before, theirs = threading.excepthook, lambda ended: worker.heard.append(ended.exc_type.__name__)
    threading.excepthook = theirs
    worker.ours.watch()
    yield worker
    if worker.thread is not None and worker.thread.is_alive():
        worker.end()
    worker.ours.unwatch()
    assert threading.excepthook is theirs
    threading.excepthook = before


def _run(worker: Worker, task: Callable[[], object]) -> None:
    asyncio.run(worker.ours.run(task))


def test_a_task_runs_on_the_worker_s_thread_while_it_waits_for_a_prompt(worker: Worker) -> None:
    worker.start()
    seen: list[str] = []
    for _ in range(20):  # the worker waits, or is about to
        _run(worker, lambda: seen.append(threading.current_thread().name))
    assert seen == ["a worker"] * 20


def test_the_event_loop_goes_on_while_a_task_runs(worker: Worker) -> None:
    worker.start()
    goes_on = threading.Event()

    async def both() -> None:
        task = asyncio.create_task(worker.ours.run(lambda: _waited(goes_on)))
        while worker.ours.begun == 0:
            await asyncio.sleep(0)
        assert worker.queue.mutex.acquire(blocking=False), "and the queue is free"
        worker.queue.mutex.release()
        goes_on.set()
        await task

    asyncio.run(both())


def _waited(event: threading.Event) -> None:
    assert event.wait(30)


@pytest.mark.parametrize(
    "kind", [ZeroDivisionError, SystemExit, KeyboardInterrupt, StopIteration, asyncio.CancelledError]
)
def test_what_a_task_raises_ends_neither_the_worker_nor_the_event_loop(
    worker: Worker, kind: type[BaseException]
) -> None:
    worker.start()

    def fail() -> None:
        raise kind("by nothing")

    with pytest.raises((ZeroDivisionError, RuntimeError), match=f"{kind.__name__}: by nothing|^by nothing"):
        _run(worker, fail)
    _run(worker, lambda: None)
    assert worker.ours.fault is None


def test_while_a_prompt_runs_a_task_is_refused(worker: Worker) -> None:
    worker.start()
    running, over = threading.Event(), threading.Event()
    worker.prompt(lambda: (running.set(), _waited(over))[1])
    assert running.wait(30)
    with pytest.raises(RuntimeError) as refused:
        _run(worker, lambda: worker.done.append("a task"))
    over.set()
    assert type(refused.value).__name__ == "PromptRunningError"
    worker.end()
    assert worker.done == ["prompt 0"]


def test_a_task_that_a_prompt_overtakes_is_withdrawn(worker: Worker) -> None:
    begun, over = threading.Event(), threading.Event()
    worker.prompt(lambda: (begun.set(), _waited(over))[1])

    async def ask() -> None:
        asking = asyncio.create_task(worker.ours.run(lambda: worker.done.append("a task")))
        await asyncio.sleep(0)
        worker.queue.get()  # a prompt begins past the worker's turn, as one that came while it waited
        await asking

    with pytest.raises(RuntimeError) as refused:
        asyncio.run(ask())
    assert type(refused.value).__name__ == "PromptRunningError"
    worker.ours.take_turn(worker.queue)
    assert worker.done == [] and worker.ours.begun == 1


def test_a_task_whose_client_has_gone_is_withdrawn(worker: Worker) -> None:
    async def ask() -> None:
        asking = asyncio.create_task(worker.ours.run(lambda: worker.done.append("a task")))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])

    asyncio.run(ask())
    worker.ours.take_turn(worker.queue)
    assert worker.done == []


def test_a_wake_up_that_the_worker_misses_is_repeated(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    wakes = iter([lambda: None, lambda: worker.ours.take_turn(worker.queue)])
    monkeypatch.setattr(worker.ours, "wake", lambda: next(wakes)())
    _run(worker, lambda: worker.done.append("a task"))
    assert worker.done == ["a task"]


def test_a_task_that_ended_just_before_a_prompt_began_is_not_refused(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Running:
        """At the second look the task runs to its end, and then a prompt begins."""

        looks = 0

        def __bool__(self) -> bool:
            self.looks += 1
            if self.looks == 2:
                worker.ours.take_turn(worker.queue)
            return self.looks > 1

    monkeypatch.setattr(worker.queue, "currently_running", Running())
    _run(worker, lambda: worker.done.append("a task"))
    assert worker.done == ["a task"]


def test_a_worker_that_does_not_come_to_a_task_is_waited_for_only_so_long(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("multigpu.multigpu_core.comfy.host.prompt_worker")
    monkeypatch.setattr(module, "START_SECONDS", 0.0)
    with pytest.raises(module.WorkerUnavailableError, match="busy without a prompt"):
        _run(worker, lambda: worker.done.append("a task"))
    worker.ours.take_turn(worker.queue)
    assert worker.done == []


def test_another_queue_has_another_worker(worker: Worker) -> None:
    other = importlib.import_module("execution").PromptQueue(_Server())
    worker.ours.submit(lambda: worker.done.append("a task"))
    worker.ours.take_turn(other)
    assert worker.done == []


def _fail() -> None:
    raise ZeroDivisionError("by nothing")


def test_a_worker_that_died_is_known_with_the_last_line_of_its_error(worker: Worker) -> None:
    worker.start()
    _run(worker, lambda: None)
    other = threading.Thread(target=_fail)
    other.start()
    other.join()
    assert worker.ours.fault is None, "another thread's error is its own"
    worker.prompt(_fail)
    assert worker.thread is not None
    worker.thread.join(30)
    assert worker.ours.fault == "ZeroDivisionError: by nothing"
    assert worker.heard == ["ZeroDivisionError"] * 2, "who listened before hears of both"
    with pytest.raises(RuntimeError, match=r"has died \(ZeroDivisionError: by nothing\)\. Restart ComfyUI"):
        _run(worker, lambda: None)


def test_a_worker_whose_end_nobody_reported_is_dead_all_the_same(worker: Worker) -> None:
    worker.ours.unwatch()
    worker.start()
    _run(worker, lambda: None)
    worker.prompt(_fail)
    assert worker.thread is not None
    worker.thread.join(30)
    assert "see ComfyUI's log for the reason" in worker.ours.fault


def test_a_handler_that_somebody_put_over_ours_stays(worker: Worker) -> None:
    ours = threading.excepthook
    threading.excepthook = over = lambda ended: ours(ended)
    worker.ours.unwatch()
    assert threading.excepthook is over
    threading.excepthook = ours


def test_prompts_and_tasks_are_counted_also_those_that_have_ended(worker: Worker) -> None:
    worker.start()
    assert worker.ours.is_idle
    begun = worker.ours.begun
    _run(worker, lambda: None)
    assert worker.ours.begun == begun + 1
    ended = threading.Event()
    worker.prompt(lambda: ended.set())
    assert ended.wait(30)
    assert worker.ours.begun == begun + 2
