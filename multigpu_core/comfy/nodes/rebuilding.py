"""Lets ComfyUI load a model of our nodes once more, where its loader leaves no way to do so.

ComfyUI's own device nodes and its CFG split give each device a model that was loaded afresh; a loader says how in
`cached_patcher_init` of its patcher: a function, its arguments, and the place in the result if it has several.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from multigpu.multigpu_core.comfy.host.dynamic_vram import without_dynamic_vram

from .loader_outputs import map_outputs, patcher_of

PLAIN = (str, int, float, bool, type(None))
"""What a loader's inputs are where they name files and settings: it can be called with them again at any time."""


@dataclass(frozen=True)
class Reload:
    """Calls a loader again and gives the patcher that one of its outputs is or holds."""

    load: Callable[[], Any]
    output: int

    def __call__(self, disable_dynamic: bool = False) -> Any:
        """A fresh patcher; one that is not DynamicVRAM's where ComfyUI wants that."""
        found: list[Any] = []
        with without_dynamic_vram() if disable_dynamic else nullcontext():
            map_outputs(self.load(), lambda index, value: found.append(value) if index == self.output else None)
        return patcher_of(found[0])


def make_rebuildable(value: Any, output: int, load: Callable[[], Any], inputs: Mapping[str, Any]) -> None:
    """Let ComfyUI get the model of a loader's output again by `load`, unless the loader has said how itself.

    A loader that was given a model of another node cannot be called again: its `inputs` may have changed since.
    """
    patcher = patcher_of(value)
    if patcher is None or getattr(patcher, "cached_patcher_init", ()) is not None:
        return
    if all(isinstance(given, PLAIN) for given in inputs.values()):
        patcher.cached_patcher_init = (Reload(load, output), ())
