"""The conformance kit's trials of one variant of a loader, in a ComfyUI on simulated accelerators."""

from __future__ import annotations

import gc
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from multigpu.multigpu_core.plugins import NodeVariant, WrappedLoader
from multigpu.multigpu_core.provisioning.in_process import ComfyUI, finished

from .trial import LoaderTrial


class PlantedError(Exception):
    """What the kit lets a loader raise."""


@dataclass(frozen=True)
class VariantTrial:
    """One variant, made from the loader class as the framework makes it."""

    variant: NodeVariant
    wraps: WrappedLoader
    trial: LoaderTrial
    comfyui: ComfyUI

    @property
    def devices(self) -> tuple[str, ...]:
        """Accelerators to load on: one that ComfyUI would not choose itself, and the one that it would."""
        host = self.comfyui.framework.context.host
        own = host.default_device()
        return (*[name for name in host.registry.names() if name not in ("cpu", own)][:1], own)

    def node(self, observe: Callable[[], None] = lambda: None) -> type[Any]:
        """The variant's node class; `observe` is called whenever the wrapped loader is."""
        variants = importlib.import_module("multigpu.multigpu_core.comfy.nodes.variants")
        made: type[Any] = variants.make_variant(
            watched(self.trial.loader, observe), self.variant, self.comfyui.framework.context, self.wraps.pack
        )
        return made

    def placing(self, device: str) -> dict[str, Any]:
        """The variant's own inputs: everything on `device`, and what splits half on another one."""
        other = next((name for name in self.devices if name != device), "cpu")
        inputs: dict[str, Any] = {}
        for part in self.variant.parts:
            inputs[part.device_name] = device
            if part.offload_input:
                inputs[part.prefix + part.offload_input] = "cpu"
            if part.splits:
                inputs[f"{part.prefix}expert_mode_allocations"] = f"{device},50%;{other},50%"
        return inputs

    def load(self, device: str, observe: Callable[[], None] = lambda: None) -> tuple[Any, ...]:
        node = self.node(observe)
        torch.manual_seed(0)  # some loaders fill in at random what their file lacks
        return finished(getattr(node(), node.FUNCTION)(**self.trial.inputs, **self.placing(device)))

    def load_plain(self) -> tuple[Any, ...]:
        loader = self.trial.loader
        call = loader.execute if hasattr(loader, "define_schema") else getattr(loader(), loader.FUNCTION)
        torch.manual_seed(0)
        return finished(call(**self.trial.inputs))

    def computed(self, outputs: tuple[Any, ...]) -> list[Tensor]:
        compute = self.trial.compute or weights_of
        return [value.detach().cpu() for value in compute(outputs)]


def problems_of_variant(
    variant: NodeVariant, loader: WrappedLoader, trial: LoaderTrial, comfyui: ComfyUI
) -> Iterator[str]:
    """What one variant of a loader does not keep, one sentence each."""
    one = VariantTrial(variant, loader, trial, comfyui)
    with torch.inference_mode():
        one.load_plain()  # what the pack itself changes with its first load is its own affair
        before = _state(trial.loader)
        for check in (_inputs, _device, _exceptions, _parity, _split, _unloading):
            try:
                yield from check(one)
            except Exception as error:  # a variant can fail in any way; the other checks still tell something
                yield f"{type(error).__name__} while its {check.__name__.strip('_')} were tried: {error}"
            finally:
                comfyui.reset()
        yield from (f"loading leaves {change}" for change in _changes(before, _state(trial.loader)))


def watched(loader: type[Any], observe: Callable[[], None]) -> type[Any]:
    """A loader class that calls `observe` before it loads, and is otherwise the class it was."""
    name = "execute" if hasattr(loader, "define_schema") else loader.FUNCTION
    original = inspect.getattr_static(loader, name)
    kind = type(original) if isinstance(original, (classmethod, staticmethod)) else None
    function = original.__func__ if kind is not None else original

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        observe()
        return function(*args, **kwargs)

    @wraps(function)
    async def call_async(*args: Any, **kwargs: Any) -> Any:
        observe()
        return await function(*args, **kwargs)

    chosen: Any = call_async if inspect.iscoroutinefunction(function) else call
    # Its module tells the framework which pack's globals to set.
    members = {"__module__": loader.__module__, name: chosen if kind is None else kind(chosen)}
    return type(loader.__name__, (loader,), members)


def weights_of(outputs: Sequence[Any]) -> list[Tensor]:
    """The weights of all models among a loader's outputs, loaded by ComfyUI where it manages them."""
    mm = importlib.import_module("comfy.model_management")
    weights: list[Tensor] = []
    for output in outputs:
        patcher = _patcher_of(output)
        if patcher is not None:
            mm.load_models_gpu([patcher])
        module = patcher.model if patcher is not None else _bare_module(output)
        if module is not None:
            weights += [value.detach().cpu() for _, value in sorted(module.named_parameters())]
    return weights


def _inputs(one: VariantTrial) -> Iterator[str]:
    own = one.trial.loader.INPUT_TYPES()
    inputs = one.node().INPUT_TYPES()
    gone = {name for name, _ in one.variant.fixed_inputs}
    gone |= {part.replaces.name for part in one.variant.parts if part.replaces is not None}
    for section, specs in own.items():
        theirs = [name for name in specs if name not in gone]
        kept = [name for name in inputs.get(section, {}) if name in theirs]
        if kept != theirs:
            yield f"the loader's own {section} inputs are {theirs}, here they are {kept}."
    every = {name: spec for specs in inputs.values() for name, spec in specs.items()}
    for name in one.placing(one.devices[0]):
        if name not in every:
            yield f"the input {name} is missing."
    for part in one.variant.parts:
        offered = every.get(part.device_name, ((),))[0]
        if not part.socket and (absent := set(one.devices) - set(offered)):
            yield f"{part.device_name} does not offer {', '.join(sorted(absent))}."


def _device(one: VariantTrial) -> Iterator[str]:
    if not one.variant.parts:
        return
    mm = importlib.import_module("comfy.model_management")
    before = str(mm.get_torch_device())
    for device in one.devices:
        seen: list[str] = []
        outputs = one.load(device, lambda seen=seen: seen.append(str(mm.get_torch_device())))  # type: ignore[misc]
        if seen != [device]:
            yield f"loading for {device}, the loader saw {seen or 'no call at all'}."
        for index in {index for part in one.variant.parts for index in part.outputs if index < len(outputs)}:
            patcher = _patcher_of(outputs[index])
            if patcher is not None and str(patcher.load_device) != device:
                yield f"output {index} was loaded for {device} and would compute on {patcher.load_device}."
            elif elsewhere := _devices_of(_bare_module(outputs[index])) - {device, "cpu"}:
                yield f"output {index} was loaded for {device} and lies on {', '.join(sorted(elsewhere))}."
        if str(mm.get_torch_device()) != before:
            yield f"after loading for {device}, ComfyUI's own device is {mm.get_torch_device()} and was {before}."


def _exceptions(one: VariantTrial) -> Iterator[str]:
    def fail() -> None:
        raise PlantedError

    before = _state(one.trial.loader)
    try:
        one.load(one.devices[0], fail)
    except PlantedError:
        pass
    else:
        yield "an exception in the loader does not reach the user."
    for change in _changes(before, _state(one.trial.loader)):
        yield f"a loader that raises leaves {change}"


def _parity(one: VariantTrial) -> Iterator[str]:
    expected = one.computed(one.load_plain())
    one.comfyui.reset()
    for device in one.devices:
        values = one.computed(one.load(device))
        if len(values) != len(expected) or not all(torch.equal(a, b) for a, b in zip(values, expected, strict=False)):
            yield f"on {device} it computes something else than the loader itself does."


def _split(one: VariantTrial) -> Iterator[str]:
    """A split that moves nothing helps nobody: the model, or its stand-in, has no blocks that can be moved."""
    split_outputs = {index for part in one.variant.parts if part.splits for index in part.outputs}
    outputs = one.load(one.devices[0]) if split_outputs else ()
    for index in sorted(index for index in split_outputs if index < len(outputs)):
        patcher = _patcher_of(outputs[index])
        placement = getattr(patcher, "multigpu_placement", None)
        if placement is None:
            continue
        importlib.import_module("comfy.model_management").load_models_gpu([patcher])
        plan = placement.distribution.plan
        if plan is not None and not any(placed.block.size_bytes for placed in plan.offloaded):
            yield (
                f"the split of output {index} moves nothing: its model has no blocks of several layers. "
                "Give a stand-in such blocks; a real model without them needs no variant that splits."
            )


def _unloading(one: VariantTrial) -> Iterator[str]:
    mm = importlib.import_module("comfy.model_management")

    def left(load: Callable[[], tuple[Any, ...]]) -> list[int]:
        outputs = load()
        weights_of(outputs)
        managed = all(_patcher_of(output) is not None for output in outputs)
        if not managed:
            del outputs  # what ComfyUI does not manage goes when nobody uses it any more
        mm.unload_all_models()
        gc.collect()
        return one.comfyui.held_bytes()

    usual = sum(left(one.load_plain))
    one.comfyui.reset()
    held = left(lambda: one.load(one.devices[0]))
    if sum(held) > usual:
        yield f"after unloading, accelerators still hold {held} bytes; after the loader itself {usual}."


def _state(loader: type[Any]) -> dict[str, Any]:
    """What a load must leave as it was: ComfyUI's functions and choices, and the devices in the pack's own modules."""
    mm = importlib.import_module("comfy.model_management")
    patchers = importlib.import_module("comfy.model_patcher")
    scope = importlib.import_module("multigpu.multigpu_core.comfy.host.scope")
    state: dict[str, Any] = {}
    state.update({f"comfy.model_management.{name}": v for name, v in vars(mm).items() if inspect.isfunction(v)})
    state["comfy.model_patcher.CoreModelPatcher"] = patchers.CoreModelPatcher
    state["ComfyUI's device"] = mm.get_torch_device()
    state["the device scope"] = scope.current_scope()
    pack = loader.__module__.partition(".")[0]
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == pack:
            state.update({f"{name}.{key}": v for key, v in vars(module).items() if isinstance(v, torch.device)})
    return state


def _changes(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    for name, value in after.items():
        if name in before and value is not before[name] and value != before[name]:
            yield f"{name} as {value}; it was {before[name]}."


def _devices_of(module: nn.Module | None) -> set[str]:
    return {str(value.device) for value in module.parameters()} if module is not None else set()


def _patcher_of(output: Any) -> Any | None:
    return importlib.import_module("multigpu.multigpu_core.comfy.host.loader_outputs").patcher_of(output)


def _bare_module(output: Any) -> nn.Module | None:
    if isinstance(output, nn.Module):
        return output
    if isinstance(output, dict):
        return next((value for value in output.values() if isinstance(value, nn.Module)), None)
    return None
