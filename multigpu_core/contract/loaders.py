"""A plugin's description of the loader nodes that it knows: data only, importable without torch and ComfyUI."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ReplacedInput:
    """An input of the wrapped class that a device input of ours stands for, and what the class gets for it instead."""

    name: str
    value: object
    value_on_cpu: object | None = None
    """What the class gets where the cpu is chosen, if that is something else."""

    def value_for(self, device: str) -> object:
        return self.value_on_cpu if device == "cpu" and self.value_on_cpu is not None else self.value


@dataclass(frozen=True)
class DevicePart:
    """One model among a node's outputs that gets a device, and a split where `splits`, of its own.

    The inputs added for it are named with `prefix` in front. `outputs` are indices into the node's outputs: none for a
    node that uses models and makes none. With `splits` the split applies to `split_output` alone; other outputs go to
    the compute device whole.
    """

    outputs: tuple[int, ...]
    prefix: str = ""
    device_input: str = "device"
    section: str = "optional"
    """The section, ``required`` or ``optional``, that the added inputs go to, as saved workflows have them."""
    before: str = ""
    """The input of the wrapped class that follows the added ones. They go to the section's end where there is none."""
    replaces: ReplacedInput | None = None
    """An input that is not offered any more; the added ones are in its place, unless `before` says another."""
    socket: bool = False
    """The device arrives over a link, from another node's ``MULTIGPUDEVICE`` output, and is not chosen here."""
    offload_input: str = ""
    """Name of a second choice of device, for what the model does not need now. Without it that stays ComfyUI's own."""
    splits: bool = False
    default_virtual_vram_gb: float = 4.0
    donors_by_switch: bool = False
    """A switch `use_other_vram` stands for the choice of donors: off is the cpu, on every other card and then cpu."""

    def __post_init__(self) -> None:
        _expect(self.outputs, int, "DevicePart: outputs", "(0,)")

    @property
    def split_output(self) -> int:
        return self.outputs[0]

    @property
    def device_name(self) -> str:
        """The name of its device input."""
        return self.prefix + self.device_input


@dataclass(frozen=True)
class ExtraInput:
    """An input that the wrapped class takes but does not list. It is handed on under its name.

    `kind` is a type of ComfyUI's, or ``DEVICE`` for a choice of devices that starts at the cpu.
    """

    name: str
    kind: str
    tooltip: str
    section: str = "optional"
    before: str = ""


@dataclass(frozen=True)
class NodeVariant:
    """One node made from a wrapped class. `parts` share the outputs of that class among them."""

    node_id: str
    title_suffix: str
    """What its title has before the loader's own, so that it can be told apart in a narrow list."""
    parts: tuple[DevicePart, ...]
    fixed_inputs: tuple[tuple[str, object], ...] = ()
    """Inputs of the wrapped loader that are not offered but always passed with this value."""
    options: tuple[str, ...] = ("eject_models", "keep_loaded", "high_precision_loras", "strategy")
    """The optional inputs that follow a split's, in the order in which saved workflows have them."""
    description: str = ""
    device_output: str = ""
    """Name of an output, after the wrapped class's own, that hands the first part's device to other nodes."""
    extra_inputs: tuple[ExtraInput, ...] = ()
    default_device: str = ""
    """What its choices of a device offer first; the first accelerator where it is empty."""

    def __post_init__(self) -> None:
        _expect(self.parts, DevicePart, f"NodeVariant {self.node_id!r}: parts", "(DevicePart((0,)),)")

    @property
    def splits(self) -> bool:
        return any(part.splits for part in self.parts)


Around = Callable[[Mapping[str, Any], "torch.device"], AbstractContextManager[None]]
"""Called with a node's inputs and its compute device; what it returns is entered for the length of the node's call."""


@dataclass(frozen=True)
class PackDevices:
    """How a node pack comes to its devices, where that is not by asking ComfyUI while its loader runs.

    Many packs ask again when a later node runs, so a model would end up on another device than its loader put it on.
    Every node of the pack, ours and its own, runs on the device of the model that it is handed, if one of our loaders
    made that model.
    """

    model_types: tuple[str, ...]
    """Types of models among a node's inputs. The first of them that a node is given decides on its device."""
    device_globals: tuple[str, ...] = ()
    """Globals that hold the compute device since import: set for a call, in every module of the pack that has one."""
    offload_globals: tuple[str, ...] = ()
    """The same for the device of what is not needed now."""
    around: Around | None = None
    """What else the pack's models need for a call, such as devices that they keep in attributes."""

    def __post_init__(self) -> None:
        for name in ("model_types", "device_globals", "offload_globals"):
            _expect(getattr(self, name), str, f"PackDevices: {name}", '("MY_MODEL",)')


@dataclass(frozen=True)
class WrappedLoader:
    """A node by its id in ComfyUI, and the variants that it gets. `pack` is the same for all nodes of one pack."""

    target: str
    variants: tuple[NodeVariant, ...]
    pack: PackDevices | None = None

    def __post_init__(self) -> None:
        where = f"WrappedLoader {self.target!r}:"
        _expect(self.variants, NodeVariant, f"{where} variants", f"(device_only({self.target!r}),)")
        if not isinstance(self.pack, PackDevices | None):
            raise TypeError(f"{where} pack is a PackDevices, not a {type(self.pack).__name__}.")

    @property
    def makes_models(self) -> bool:
        return any(part.outputs for variant in self.variants for part in variant.parts)


@dataclass(frozen=True)
class OwnNode:
    """A node class of the plugin's own, under its node id.

    For each of `device_inputs` the node gets a required input that lists the devices.
    """

    node_id: str
    title: str
    node_class: type
    device_inputs: tuple[str, ...] = ()


def _expect(things: object, kind: type, what: str, example: str) -> None:
    """Validate here, so that the error points at the plugin's own line: the data is used long after the hook's call."""
    if not isinstance(things, tuple | list) or not all(isinstance(thing, kind) for thing in things):
        raise TypeError(f"{what} is a tuple of {kind.__name__}, as {example}.")


ALL_OUTPUTS = (0, 1, 2, 3)
"""Outputs that a loader does not have are no matter."""


def device_only(target: str, outputs: tuple[int, ...] = ALL_OUTPUTS, *, offload_input: str = "") -> NodeVariant:
    """The variant of a loader whose weights cannot be split: a device choice for these outputs."""
    return NodeVariant(f"{target}MultiGPU", "MultiGPU", (DevicePart(outputs, offload_input=offload_input),))


def split_and_device(
    target: str, *, split_device_input: str = "compute_device", node_name: str | None = None
) -> tuple[NodeVariant, ...]:
    """The two variants that every loader gets: a device choice, and a split.

    They are called after `node_name` (the target, unless said): ``…MultiGPU`` and ``…DisTorch2MultiGPU``.
    """
    name = node_name or target
    return (
        device_only(name),
        NodeVariant(
            f"{name}DisTorch2MultiGPU",
            "DisTorch2",
            (DevicePart(ALL_OUTPUTS, device_input=split_device_input, splits=True),),
        ),
    )
