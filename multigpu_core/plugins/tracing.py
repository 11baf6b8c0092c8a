"""Log every call of a hook where the environment says MULTIGPU_TRACE_PLUGINS=1."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from reprlib import Repr
from typing import Any, TypeVar

import structlog

from .isolation import described, printable

log = structlog.get_logger("multigpu")
Answer = TypeVar("Answer")

ENVIRONMENT_VARIABLE = "MULTIGPU_TRACE_PLUGINS"
MAX_CHARACTERS = 120
"""Of one argument, or of an answer."""


class HookTrace:
    """Passes hook calls on, and logs each with its plugin, arguments, answer and duration where tracing is on."""

    def __init__(self, environ: Mapping[str, str] = os.environ, clock: Callable[[], float] = time.perf_counter) -> None:
        self.is_on = environ.get(ENVIRONMENT_VARIABLE, "") not in ("", "0")
        self._clock = clock

    def call(self, plugin: str, hook: str, arguments: Mapping[str, Any], ask: Callable[[], Answer]) -> Answer:
        """Return what `ask` returns, and raise what it raises."""
        if not self.is_on:
            return ask()
        given = ", ".join(f"{name}={abbreviated(value)}" for name, value in arguments.items())
        begin = self._clock()
        try:
            answer = ask()
        except BaseException as error:
            self._log(plugin, f"{hook}({given})", f"raised {described(error)[0]:.{MAX_CHARACTERS}}", begin)
            raise
        self._log(plugin, f"{hook}({given})", abbreviated(answer), begin)
        return answer

    def _log(self, plugin: str, call: str, answer: str, begin: float) -> None:
        milliseconds = round(1000 * (self._clock() - begin), 3)
        message = f"{plugin}: {call} -> {answer}, {milliseconds} ms"
        log.info("plugin_hook", message=message, plugin=plugin, call=call, answer=answer, milliseconds=milliseconds)


def abbreviated(value: object) -> str:
    """`value` as Python writes it, cut to a part of a log line."""
    short = Repr()
    short.maxother = short.maxstring = MAX_CHARACTERS
    try:
        return printable(short.repr(value), MAX_CHARACTERS)
    except Exception:  # a plugin's own objects may fail in any way
        return f"a {type(value).__name__} that cannot be printed"
