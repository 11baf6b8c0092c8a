"""Patches of a relayed model compute where they hold what they hold, also inside a block that another GPU computes.

donor      block: q, k, v ─┐                      ┌─▶ output
compute                    └─▶ patch ─▶ result ───┘
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from multigpu.multigpu_core.execution import replace_tensors

from .patch_tensors import PATCHES, Holdings, is_on_accelerator


class PatchAtHome:
    """A patch that is called with tensors of any device, and computes on `home`."""

    def __init__(self, patch: Callable[..., Any], home: torch.device) -> None:
        self._patch = patch
        self._home = home

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        away: list[torch.device] = []
        originals: dict[int, tuple[Tensor, Tensor]] = {}  # with the copy, so that its id stays its own

        def bring(tensor: Tensor) -> Tensor:
            if tensor.device == self._home or not is_on_accelerator(tensor):
                return tensor
            away.append(tensor.device)
            brought = tensor.to(self._home)
            originals[id(brought)] = tensor, brought
            return brought

        given = replace_tensors([args, kwargs], bring, in_place=True)
        if not away:
            return self._patch(*args, **kwargs)
        try:
            result = self._patch(*given[0], **given[1])
        finally:  # what the caller's dicts and lists held
            replace_tensors(given, lambda tensor: originals.get(id(tensor), (tensor,))[0], in_place=True)
        # Also what is handed through: the patch may have changed it in place.
        return replace_tensors(result, lambda tensor: tensor.to(away[0]) if tensor.device == self._home else tensor)


@contextmanager
def patches_at(home: torch.device, model: nn.Module, options: Mapping[str, Any]) -> Iterator[None]:
    """Every patch in a model's options that holds tensors computes on `home` until the block is left."""
    undo = []
    for holder, key, patch in list(_patches(options.get("transformer_options", {}))):
        if _holds_tensors(patch, model):
            holder[key] = PatchAtHome(patch, home)
            undo.append((holder, key, patch))
    try:
        yield
    finally:
        for holder, key, patch in undo:
            holder[key] = patch


def _patches(transformer_options: Mapping[str, Any]) -> Iterator[tuple[Any, Any, Callable[..., Any]]]:
    for kind in PATCHES:
        for of_kind in transformer_options.get(kind, {}).values():
            items = of_kind.items() if isinstance(of_kind, dict) else enumerate(of_kind)
            for key, patch in items:
                yield of_kind, key, patch


def _holds_tensors(patch: Any, model: nn.Module) -> bool:
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        if is_on_accelerator(tensor):
            found.append(tensor)
        return tensor

    Holdings(note, [model]).visit(patch, depth=1)
    return bool(found)
