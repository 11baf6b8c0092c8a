"""Show a process that a node starts during its call the chosen device alone.

The variables of the device's family, such as CUDA_VISIBLE_DEVICES, name it; the child sees it as its first. Where the
pack sets such a variable itself, the pack has chosen.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from typing import Any

from multigpu.multigpu_core.comfy.any_node.choice import Choice, current_choice

from .interception import Function, Intercepted

NONE_VISIBLE = "-1"


def child_environment(choice: Choice, given: Mapping[str, str] | None, parent: Mapping[str, str]) -> dict[str, str]:
    """The environment of a child process that shall compute on the chosen device."""
    environment = dict(parent if given is None else given)
    for variable in _deciding_variables(choice.registry.visibility_variables(choice.home.type), parent):
        if environment.get(variable) == parent.get(variable):
            environment[variable] = NONE_VISIBLE if choice.changes_family else _visible(choice, parent.get(variable))
    return environment


def _deciding_variables(variables: Sequence[str], parent: Mapping[str, str]) -> Sequence[str]:
    """Those that number the devices as torch does here: what ROCR hides is gone before the others count."""
    lists = [name for name in variables if name.endswith("_VISIBLE_DEVICES") and not name.startswith("ROCR_")]
    return [name for name in lists if name in parent] or lists[:1]


def _visible(choice: Choice, listed: str | None) -> str:
    """The device by the number or name that it has in the parent's own list, if there is one."""
    index = choice.device.index or 0
    visible = [entry.strip() for entry in (listed or "").split(",") if entry.strip()]
    return visible[index] if index < len(visible) else str(index)


def _popen(original: Function) -> Function:
    def start(process: Any, *args: Any, **kwargs: Any) -> None:
        choice = current_choice()
        if choice is not None and len(args) <= _POSITION_OF_ENV and not _is_started_by_torch():
            kwargs["env"] = child_environment(choice, kwargs.get("env"), os.environ)
        original(process, *args, **kwargs)

    return start


def _is_started_by_torch() -> bool:
    """Whether torch's compiler starts a worker, which outlives the call and serves every device."""
    frame = inspect.currentframe()
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).startswith(_COMPILER):
            return True
        frame = frame.f_back
    return False


_COMPILER = "torch._inductor"
_POSITION_OF_ENV = 10
"""Of `env` among the positional arguments of Popen, where nobody passes it."""

STARTING = (Intercepted("subprocess", "Popen.__init__", _popen),)
