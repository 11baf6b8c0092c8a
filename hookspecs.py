"""The whole plugin API of MultiGPU for ComfyUI, on one page.

A plugin is a module or an object whose functions are marked with `hookimpl` and named after the hooks below:

    from multigpu import hookimpl
    from multigpu.api import WrappedLoader, split_and_device

    @hookimpl
    def multigpu_wrap_loader():
        return [WrappedLoader("MyUnetLoader", split_and_device("MyUnetLoader"))]

An implementation may take fewer arguments than its hook offers; it must not give them defaults, pluggy would never
fill those in. Plugins are asked in the order of their registration, and for a plan in the reverse order, each alone:
there is nothing for a wrapper to wrap.

Whatever a plugin raises, SystemExit and CancelledError included, takes out that plugin alone. Its import and the hooks
that are called at start-up (all but multigpu_plan_allocation, multigpu_unload_policy and multigpu_shutdown) run on a
thread of their own, and each has to end within `startup.plugin_seconds` of plugins.toml (30); with 0 they run on the
thread that starts ComfyUI, without a deadline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import pluggy

from multigpu.multigpu_core.contract.loaders import (
    DevicePart,
    ExtraInput,
    NodeVariant,
    OwnNode,
    PackDevices,
    ReplacedInput,
    WrappedLoader,
    device_only,
    split_and_device,
)
from multigpu.multigpu_core.contract.unloading import LoadedModelInfo, UnloadReason

if TYPE_CHECKING:
    from pydantic import BaseModel

    from multigpu.multigpu_core.allocation import AllocationPlan, AllocationRequest, Inventory
    from multigpu.multigpu_core.allocation.formats.file_format import FileFormat
    from multigpu.multigpu_core.devices import DeviceBackend, DeviceInfo, HardwareProfile
    from multigpu.multigpu_core.strategies.strategy import Strategy

__all__ = [
    "DevicePart",
    "ExtraInput",
    "LoadedModelInfo",
    "NodeVariant",
    "OwnNode",
    "PackDevices",
    "ReplacedInput",
    "UnloadReason",
    "WrappedLoader",
    "device_only",
    "hookimpl",
    "multigpu_commands",
    "multigpu_device_backends",
    "multigpu_file_formats",
    "multigpu_plan_allocation",
    "multigpu_shutdown",
    "multigpu_startup",
    "multigpu_strategies",
    "multigpu_unload_policy",
    "multigpu_wrap_loader",
    "split_and_device",
]

PROJECT = "multigpu"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def multigpu_startup(options: BaseModel | None) -> None:
    """Called once, when the plugin is registered, before any other hook.

    A plugin that declares a pydantic model as `Options` gets its entries from [integrations.NAME] of plugins.toml,
    validated; one that declares none gets None. A plugin that raises here is left out.
    """


@hookspec
def multigpu_shutdown() -> None:
    """Called once, when ComfyUI ends or MultiGPU is stopped: give back what `multigpu_startup` took.

    A process that is killed, or ended by a signal other than Ctrl-C, ends without it. What is raised here is logged.
    """


@hookspec
def multigpu_wrap_loader() -> Iterable[WrappedLoader | OwnNode]:
    """Say which loader nodes get variants, and which nodes of your own to add.

    A `WrappedLoader` names a node id that may or may not be installed: the variants are made from the class that is
    really registered under it, with that class's own inputs and outputs, and not at all where it is absent. An
    `OwnNode` is a node class of yours, for what a generic wrapper cannot do. `PackDevices` says what else a pack needs
    to compute on a model's device, when its later nodes ask for a device again.
    """
    raise NotImplementedError


@hookspec
def multigpu_device_backends() -> Iterable[DeviceBackend]:
    """Add families of devices, each a `DeviceBackend` under a type (``npu``) that no other backend has.

    A backend that cannot count its devices leaves its plugin out.
    """
    raise NotImplementedError


@hookspec
def multigpu_file_formats() -> Iterable[FileFormat]:
    """Add formats of model files: how to recognise one, and how to read its tensors' names and sizes from the header.

    They serve the allocation editor, `multigpu plan` and the error that names a damaged file. Built-in formats are
    tried first.
    """
    raise NotImplementedError


@hookspec
def multigpu_strategies() -> Iterable[Strategy]:
    """Add strategies of splits: each a `Strategy` under a name that no other has.

    Nodes, the allocation editor and the command line offer them after the built-in ones. A strategy that fails takes
    its plugin out; the plan is then made with `interleave`.
    """
    raise NotImplementedError


@hookspec
def multigpu_commands() -> Iterable[Callable[..., None]]:
    """Add commands to `multigpu`: functions as typer takes them. ``def my_check() -> None`` becomes `my-check`.

    Called only where the command line needs it: for help, and for a command that is not built in.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def multigpu_plan_allocation(
    inventory: Inventory,
    request: AllocationRequest,
    devices: Sequence[DeviceInfo],
    reserve_bytes: Mapping[str, int],
    profile: HardwareProfile,
    draft: bool,
) -> AllocationPlan | None:
    """Decide the device of every block of a model, or return None to leave it to others.

    `devices` are those that the request may use. Their `free_bytes` are what the plan may use: what is free now, and
    what this model occupies there already. `reserve_bytes` is what must stay free of that for inference, by device
    name. `profile` says how fast the links and the devices are, as measured or, before that, as published.

    `draft` is true where no load follows: ComfyUI asks how much a model needs, the allocation editor shows a preview,
    or an error message suggests another split. For the first two, other models count as unloaded, so `free_bytes` may
    be all of a device's memory. A draft should be quick: it may be asked for often.

    The plan is an `AllocationPlan`, no subclass. It holds every block of the inventory exactly once, unchanged and in
    the inventory's order, on one of `devices`. In the place of a block it may hold all of its `layers`, in their order;
    a block that is offloaded as a whole is divided into them afterwards. The plan computes on the request's compute
    device and keeps heads there. Only with a strategy that relays are blocks relayed, on accelerators other than the
    compute device. `staging_bytes` are not negative, and free on the compute device beside the blocks that it stores.
    Only with a strategy that replicates are there `work_shares`: the compute device's first, and those of other
    accelerators, on which as much is free.

    Raise `PlanError` where the request cannot be met: the user sees its message. A plugin that raises anything else,
    or whose plan is not as said here, is left out and the next is asked; MultiGPU's own planner is the last.
    """


@hookspec
def multigpu_unload_policy(models: Sequence[LoadedModelInfo], reason: UnloadReason, bytes_wanted: int) -> Iterable[int]:
    """Name models that stay loaded, by their `LoadedModelInfo.key`, while others are unloaded for `reason`.

    `bytes_wanted` is how much is needed, 0 where everything shall go. A model of our nodes stays where any plugin says
    so, others are ComfyUI's to judge. Under memory pressure a model that stays can cost the one being loaded its place:
    its load is then refused with the bytes that are missing.
    """
    raise NotImplementedError
