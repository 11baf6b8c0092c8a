"""The device follows the model: what one of our loaders returned is used on the device it was loaded for.

Many packs ask ComfyUI for the device again when they encode or sample, and so compute on ComfyUI's own device whatever
their loader did. What our nodes returned is remembered with its device, and the pack's own nodes, when they are handed
such a thing, run inside that device's scope. Handed anything else they run as they always did.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import comfy.model_patcher
import structlog
import torch
from torch import nn

from .loader_class import LoaderClass, is_v3
from .results import patcher_of
from .scope import DeviceScope, current_scope, device_scope

log = structlog.get_logger("multigpu")


class FollowedModels:
    """Which device each thing belongs to that our loaders returned; things nobody uses any more are forgotten."""

    def __init__(self) -> None:
        self._scopes: weakref.WeakKeyDictionary[Any, DeviceScope] = weakref.WeakKeyDictionary()

    def remember(self, value: Any, scope: DeviceScope) -> None:
        """Let nodes that are handed `value`, or a clone of it, run in `scope`."""
        try:
            self._scopes[_anchor(value)] = scope
        except TypeError:  # strings, numbers, tuples: nothing that could be told from another of its kind
            log.debug(f"A {type(value).__name__} cannot be followed: it has no identity of its own")

    def scope_for(self, inputs: Iterable[Any]) -> DeviceScope | None:
        """The scope for a node with these inputs, or None where none of them came from our loaders.

        A model that ComfyUI manages decides: what helps it (an adapter, a ControlNet) has to be where it computes.
        """
        given = list(inputs)
        remembered = [scope for scope in map(self._scope_of, given) if scope is not None]
        if not remembered:
            return None
        patcher = next((value for value in given if isinstance(value, comfy.model_patcher.ModelPatcher)), None)
        return remembered[0] if patcher is None else on_one_device(patcher.load_device, remembered[0].offload)

    def _scope_of(self, value: Any) -> DeviceScope | None:
        try:
            return self._scopes.get(_anchor(value))
        except TypeError:
            return None


class FollowingNodes:
    """Makes the nodes of packs follow; each class is changed once, and `restore` gives it its own method back."""

    def __init__(self, models: FollowedModels) -> None:
        self._models = models
        self._undo: dict[LoaderClass, Callable[[], None]] = {}

    def install(self, nodes: Iterable[LoaderClass]) -> None:
        for node in nodes:
            name = "execute" if is_v3(node) else getattr(node, "FUNCTION", "")
            if node not in self._undo and inspect.getattr_static(node, name, None) is not None:
                self._undo[node] = self._wrap(node, name)

    def restore(self) -> None:
        for undo in self._undo.values():
            undo()
        self._undo.clear()

    def _wrap(self, node: LoaderClass, name: str) -> Callable[[], None]:
        own = node.__dict__.get(name)
        original = inspect.getattr_static(node, name)
        kind = type(original) if isinstance(original, (classmethod, staticmethod)) else None
        function = original.__func__ if kind is not None else original
        following = self._following(function)
        setattr(node, name, following if kind is None else kind(following))
        return (
            functools.partial(setattr, node, name, own) if own is not None else functools.partial(delattr, node, name)
        )

    def _following(self, function: Callable[..., Any]) -> Callable[..., Any]:
        models = self._models

        def scope_of_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> DeviceScope | None:
            # Inside a call of one of our own nodes the user has said which device.
            return models.scope_for((*args, *kwargs.values())) if current_scope() is None else None

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def follow_async(*args: Any, **kwargs: Any) -> Any:
                scope = scope_of_call(args, kwargs)
                if scope is None:
                    return await function(*args, **kwargs)
                with device_scope(scope):
                    return await function(*args, **kwargs)

            return follow_async

        @functools.wraps(function)
        def follow(*args: Any, **kwargs: Any) -> Any:
            scope = scope_of_call(args, kwargs)
            if scope is None:
                return function(*args, **kwargs)
            with device_scope(scope):
                return function(*args, **kwargs)

        return follow


def nodes_of_the_same_pack(node: LoaderClass, all_nodes: Iterable[LoaderClass]) -> list[LoaderClass]:
    """The node classes whose module is in the package of `node`'s: ComfyUI gives each pack one of its own."""
    package = node.__module__.partition(".")[0]
    return [other for other in all_nodes if getattr(other, "__module__", "").partition(".")[0] == package]


def on_one_device(device: torch.device, offload: torch.device | None = None) -> DeviceScope:
    return DeviceScope(model=device, text_encoder=device, vae=device, offload=offload)


def _anchor(value: Any) -> Any:
    """What a thing is remembered by: its module where it has one, which its clones share.

    Some packs pass a dictionary with the module in it, and a dictionary can neither be hashed nor referred to weakly.
    """
    patcher = patcher_of(value)
    if patcher is not None:
        return patcher.model
    if isinstance(value, dict) and not isinstance(value, nn.Module):
        return next((part for part in value.values() if isinstance(part, nn.Module)), value)
    return value
