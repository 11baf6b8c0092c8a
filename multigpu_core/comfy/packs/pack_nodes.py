"""Run the nodes of a pack, ours and its own, on the device of the model that they are handed."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from multigpu.multigpu_core.comfy.host.loader_class import LoaderClass, is_v3
from multigpu.multigpu_core.comfy.host.scope import Devices, current_scope, device_scope
from multigpu.multigpu_core.comfy.host.stepwise import Stepwise
from multigpu.multigpu_core.comfy.memory.tracked_models import TrackedModels
from multigpu.multigpu_core.contract.loaders import PackDevices
from multigpu.multigpu_core.devices import DeviceRegistry

from .pack_globals import PackGlobals


@dataclass(frozen=True)
class Pack:
    """One installed pack: what its integration says of it, and its modules' globals."""

    devices: PackDevices
    globals: PackGlobals


@dataclass(frozen=True)
class Following:
    """What a node runs in that follows a model, and what its result then goes through."""

    around: Callable[[Devices, Mapping[str, Any]], AbstractContextManager[Any]]
    finish: Callable[[Any], Any] = lambda result: result


class Packs:
    """The packs that have nodes of ours, and the nodes of theirs that follow our models."""

    def __init__(self, registry: DeviceRegistry, models: TrackedModels) -> None:
        self._registry = registry
        self._models = models
        self._packs: dict[str, Pack] = {}
        self._wrapped: dict[tuple[type, tuple[str, ...]], Callable[[], None]] = {}

    def pack_of(self, node: LoaderClass, devices: PackDevices) -> Pack:
        """The pack that a node class is from."""
        root = node.__module__.split(".")[0]  # ComfyUI gives every pack a name without dots
        if root not in self._packs:
            self._packs[root] = Pack(devices, PackGlobals(root, devices))
        return self._packs[root]

    def devices_for(self, pack: Pack, types: Mapping[str, str], inputs: Mapping[str, Any]) -> Devices | None:
        """The devices of the model that decides; None where that is not one of ours."""
        return self._models.devices_of(_decisive_model(inputs, types, pack.devices.model_types))

    @contextmanager
    def on(self, pack: Pack, devices: Devices, inputs: Mapping[str, Any]) -> Iterator[None]:
        """ComfyUI, the pack's globals and models, and torch itself all name these devices until the block is left."""
        with ExitStack() as stack:
            stack.enter_context(pack.globals.set_to(devices))
            stack.enter_context(device_scope(devices))
            # Code that says "cuda" without a number means the current device.
            stack.enter_context(self._registry.device_scope(self._registry.name_of(devices.compute)))
            if pack.devices.around is not None:
                stack.enter_context(pack.devices.around(inputs, devices.compute))
            yield

    def follow(self, nodes: Iterable[LoaderClass], pack: PackDevices, following: Following | None = None) -> None:
        """Let a pack's own node classes follow our models; with any other model they run as ever.

        Without `following` they run inside `on`.
        """
        for node in nodes:
            if (node, pack.model_types) in self._wrapped or not hasattr(node, function_name(node)):
                continue
            types = input_types(node)
            if not set(types.values()).isdisjoint(pack.model_types):
                how = following or Following(functools.partial(self.on, self.pack_of(node, pack)))
                wrap = functools.partial(self._following, how, pack.model_types, types)
                self._wrapped[node, pack.model_types] = _replace_function(node, wrap)

    def restore(self) -> None:
        """Give every node class its own function back."""
        while self._wrapped:
            _, undo = self._wrapped.popitem()
            undo()

    def _following(
        self, how: Following, model_types: tuple[str, ...], types: Mapping[str, str], function: Callable[..., Any]
    ) -> Callable[..., Any]:
        signature = inspect.signature(function)

        def surroundings(*args: Any, **kwargs: Any) -> Callable[[], AbstractContextManager[Any]] | None:
            if current_scope() is not None:  # called by a node whose device is decided, perhaps by its user
                return None
            inputs = _arguments(signature, args, kwargs)
            found = self._models.devices_of(_decisive_model(inputs, types, model_types))
            return functools.partial(how.around, found, inputs) if found is not None else None

        @functools.wraps(function)
        def follow(*args: Any, **kwargs: Any) -> Any:
            around = surroundings(*args, **kwargs)
            if around is None:
                return function(*args, **kwargs)
            with around():
                return how.finish(function(*args, **kwargs))

        async def finished(result: Awaitable[Any]) -> Any:
            return how.finish(await result)

        @functools.wraps(function)
        async def follow_async(*args: Any, **kwargs: Any) -> Any:
            around = surroundings(*args, **kwargs)
            if around is None:
                return await function(*args, **kwargs)
            return await Stepwise(finished(function(*args, **kwargs)), around)

        return follow_async if inspect.iscoroutinefunction(function) else follow


def _decisive_model(inputs: Mapping[str, Any], types: Mapping[str, str], model_types: Iterable[str]) -> Any | None:
    """Among a node's inputs, of the given types by name, the model that decides on the node's device."""
    for model_type in model_types:
        for name, value in inputs.items():
            if value is not None and types.get(name) == model_type:
                return value
    return None


def input_types(node: LoaderClass) -> dict[str, str]:
    """The types of a node's inputs, without choices; none for a class that cannot say."""
    try:
        sections = node.INPUT_TYPES()
        inputs = [item for name in ("required", "optional") for item in (sections.get(name) or {}).items()]
        return {name: spec[0] for name, spec in inputs if isinstance(spec[0], str)}
    except Exception:  # another pack's node, whose own listing says what is wrong with it
        return {}


def function_name(node: LoaderClass) -> str:
    """The attribute that ComfyUI runs; empty for a class that names none."""
    return "execute" if is_v3(node) else str(getattr(node, "FUNCTION", ""))


def _replace_function(
    node: LoaderClass, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Callable[[], None]:
    """Replace what a node class runs, and return the undo."""
    name = function_name(node)
    found = inspect.getattr_static(node, name)
    is_own = name in vars(node)
    kind = type(found) if isinstance(found, (classmethod, staticmethod)) else None
    wrapped = wrap(found.__func__ if kind is not None else found)
    setattr(node, name, kind(wrapped) if kind is not None else wrapped)
    return functools.partial(setattr, node, name, found) if is_own else functools.partial(delattr, node, name)


def _arguments(signature: inspect.Signature, args: Any, kwargs: Any) -> dict[str, Any]:
    """A call's arguments by name, those that the function only takes as ``**kwargs`` included."""
    try:
        bound = dict(signature.bind_partial(*args, **kwargs).arguments)
    except TypeError:  # the function itself will say so
        return dict(kwargs)
    extra = [p.name for p in signature.parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD]
    for name in extra:
        bound.update(bound.pop(name, {}))
    return bound
