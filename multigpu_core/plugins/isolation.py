"""Run a plugin's code so that what it does reaches no other plugin and not ComfyUI.

At start-up each step of a plugin (its import, its start-up hook, the question which loaders it wraps) runs on a daemon
thread and has a deadline. A step that passes it is left alone: a thread cannot be stopped. If it goes on later, it ends
its own code and nothing more, because nobody reads its result and the plugin is registered nowhere any longer.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Generic, TypeVar

from .validation import PluginError

Result = TypeVar("Result")
Wait = Callable[[threading.Event], bool]
"""Waits until a step has ended; the answer is False where the deadline came first."""

MAX_REASON_CHARACTERS = 500
MAX_TRACEBACK_CHARACTERS = 20_000
_PYTHON = os.path.dirname(threading.__file__)
_UNPRINTABLE = "an exception that cannot be printed"


def wait_at_most(seconds: float) -> Wait | None:
    """The deadline for each step; None, for no deadline and no thread, where `seconds` is 0."""
    return (lambda ended: ended.wait(seconds)) if seconds else None


def run_step(plugin: str, what: str, step: Callable[[], Result], wait: Wait | None) -> Result:
    """Return what `step` returns, and raise what it raises.

    Raises:
        PluginError: it did not end in time; the reason says which plugin, which step, and where it is.
    """
    if wait is None:
        return step()
    running = _Running(step)
    thread = threading.Thread(target=running.run, name=f"MultiGPU plugin {plugin}", daemon=True)
    thread.start()
    if not wait(running.ended):
        raise PluginError(plugin, f"{what} did not end in time{_place(thread)}. ComfyUI starts without this plugin.")
    if running.error is not None:
        raise running.error
    return running.results[0]


class _Running(Generic[Result]):
    """A step on its thread. Only the thread writes, and only before `ended` is set."""

    def __init__(self, step: Callable[[], Result]) -> None:
        self._step = step
        self.ended = threading.Event()
        self.results: list[Result] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.results.append(self._step())
        except BaseException as error:  # it is raised again where the step is waited for
            self.error = error
        finally:
            self.ended.set()


def described(error: BaseException) -> tuple[str, str]:
    """A reason in one line, and the traceback. Never raises, whatever the exception's own methods do."""
    try:
        last_line = traceback.format_exception_only(error)[-1].strip()
        reason = error.reason if isinstance(error, PluginError) else last_line
        lines = "".join(traceback.format_exception(error))
        return printable(reason, MAX_REASON_CHARACTERS), printable(lines[-MAX_TRACEBACK_CHARACTERS:], len(lines), "\n")
    except KeyboardInterrupt:
        raise
    except BaseException:
        return _UNPRINTABLE, _UNPRINTABLE


def printable(text: str, most: int, kept: str = "") -> str:
    """The text, cut to `most` characters, with escapes for characters that could steer a terminal."""
    cut = text[:most] + "…" if len(text) > most else text
    return "".join(
        letter if letter.isprintable() or letter in kept else letter.encode("unicode_escape").decode() for letter in cut
    )


def _place(thread: threading.Thread) -> str:
    """Where a thread is: the innermost line that is not of Python's own library."""
    frame = sys._current_frames().get(thread.ident or 0)
    calls = traceback.extract_stack(frame) if frame else []
    theirs = [call for call in calls if not _is_of_python(call.filename)]
    return f": it is in {os.path.basename(theirs[-1].filename)}, line {theirs[-1].lineno}" if theirs else ""


def _is_of_python(file: str) -> bool:
    return file.startswith("<") or (file.startswith(_PYTHON) and "site-packages" not in file)
