"""Find the calls in a pack's source that name a device by its number, for the error of a node that cannot be moved."""

from __future__ import annotations

import ast
import os
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from multigpu.multigpu_core.comfy.any_node.choice import Choice, named_device

from .namespaces import Namespace

SHOWN = 3
NUMBERED = frozenset({"cuda", "npu", "xpu", "mlu", "set_device", "device"})
"""Functions that take the number of a device first."""
DEVICE_KEYWORDS = frozenset({"device", "device_id", "map_location", "device_map", "gpu_id"})
WORKERS = "comfy_env"
"""A library that runs packs in processes of their own."""


@dataclass(frozen=True)
class Insistence:
    """A call that names a device, as it is written, and where."""

    call: str
    file: str
    line: int
    device: str

    def __str__(self) -> str:
        return f"{self.call} at {self.file}:{self.line}"


class NodeNotMovedError(RuntimeError):
    """A node did not run on the chosen device. `node_id` is the node, `calls` are those that insist on another one."""

    def __init__(self, node_id: str, device: str, problem: str, calls: Iterable[Insistence], reason: str) -> None:
        self.node_id = node_id
        self.calls = tuple(calls)
        super().__init__(f"{node_id} cannot run on {device}: {problem} {reason}")


INSTEAD = "use the node without MultiGPU"


def reason_of(calls: Sequence[Insistence], has_worker: bool) -> str:
    """Why a node was not moved, and what to do."""
    if has_worker:
        return (
            f"Its pack runs in a worker process of {WORKERS}, which was started with the GPUs that ComfyUI had then. "
            f"Start ComfyUI with the other GPU first, or {INSTEAD}."
        )
    if calls:
        shown = "; ".join(map(str, calls[:SHOWN]))
        return (
            f"Its pack insists on a device: {shown}. Switch on redirect_first_device for this pack in plugins.toml, "
            f"or {INSTEAD}."
        )
    return (
        "No call in its pack's source names a device, so a library or a compiled model does, or a model that it was "
        f"given is elsewhere. Load that model on the same device, or {INSTEAD}."
    )


def insisting_calls(
    namespaces: Iterable[Namespace], folder: str, choice: Choice, failed_in: Container[str] = ()
) -> list[Insistence]:
    """The calls in a pack's loaded files that name another device than the chosen one; those `failed_in` come first."""
    found = {str(namespace.get("__file__")) for namespace in namespaces}
    files = sorted(found, key=lambda file: (file not in failed_in, file))
    return [
        found
        for file in files
        for found in _calls_in(file, os.path.dirname(folder))
        if _is_another(found.device, choice)
    ]


def runs_in_worker(namespaces: Iterable[Namespace]) -> bool:
    """Whether a pack starts its nodes in processes of their own."""
    return any(
        str(getattr(value, "__module__", None) or getattr(value, "__name__", "")).split(".")[0] == WORKERS
        for namespace in namespaces
        for value in list(namespace.values())
    )


def _is_another(written: str, choice: Choice) -> bool:
    device = torch.device(choice.home.type, int(written)) if written.isdigit() else named_device(written)
    if device is None or device.type in ("cpu", "meta"):
        return False
    return choice.changes_family if device.index is None else device != choice.device


@lru_cache(maxsize=512)
def _calls_in(file: str, root: str) -> tuple[Insistence, ...]:
    """All calls of a file with a device among their arguments; `root` is left out of the file's name."""
    try:
        tree = ast.parse(Path(file).read_text(encoding="utf-8", errors="replace"))
    except (OSError, SyntaxError, ValueError):
        return ()
    name = os.path.relpath(file, root)
    calls = sorted((node for node in ast.walk(tree) if isinstance(node, ast.Call)), key=lambda call: call.lineno)
    return tuple(
        Insistence(_shortened(ast.unparse(call)), name, call.lineno, device)
        for call in calls
        for device in _devices_named(call)
    )


def _devices_named(call: ast.Call) -> Iterator[str]:
    function = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    keywords = [keyword.value for keyword in call.keywords if keyword.arg in DEVICE_KEYWORDS]
    for argument in (*call.args, *keywords):
        if not isinstance(argument, ast.Constant):
            continue
        value = argument.value
        if isinstance(value, str) and named_device(value) is not None:
            yield value
        elif type(value) is int and function in NUMBERED:
            yield str(value)
    if function in ("cuda", "npu") and not call.args and isinstance(call.func, ast.Attribute):
        yield function


def _shortened(call: str, most: int = 80) -> str:
    return call if len(call) <= most else f"{call[: most - 1]}…"
