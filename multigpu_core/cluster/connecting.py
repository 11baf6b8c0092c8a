"""The way into the cluster for this process: Ray is imported here and not before, and in a thread of its own."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from .membership import ClusterFolder, Membership
from .protocol import ClusterError, Engine
from .ray_process import ray_environment, why_not_here
from .worker_code import WorkerCode

NO_CLUSTER = "There is no cluster on this machine. Start one: multigpu cluster start"


def connect(member: Membership, folder: ClusterFolder, code: WorkerCode) -> Engine:
    """The engine for this machine's cluster.

    Raises:
        ClusterError: Ray is not installed, or the cluster does not answer.
    """
    if reason := why_not_here():
        raise ClusterError(reason)
    # Ray reads its settings when it is imported.
    os.environ.update({name: each for name, each in ray_environment(folder).items() if name.startswith("RAY_")})
    result: list[Engine | BaseException] = []

    def run() -> None:
        try:
            from .ray_engine import RayEngine

            result.append(RayEngine(member, code))
        except BaseException as error:
            result.append(error)

    # On the main thread Ray would take SIGTERM for itself.
    thread = threading.Thread(target=run, name="connect to the cluster", daemon=True)
    with _own_signal_handlers():
        thread.start()
        thread.join()
    (outcome,) = result
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


@contextmanager
def _own_signal_handlers() -> Iterator[None]:
    """Keep this process's handlers: Ray's own would abort it if it needs more than three seconds to end."""
    is_main = threading.current_thread() is threading.main_thread()
    ours = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in ours.items():
            if is_main and handler is not None:  # nobody but the main thread may set them
                signal.signal(number, handler)
