"""What a plugin says about the loader nodes that it knows: data only, importable without torch and ComfyUI."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DevicePart:
    """One model among a loader's outputs that gets a device, and a split where `splits`, of its own.

    The inputs added for it are named with `prefix` in front. `outputs` are indices into the loader's outputs. With
    `splits` the split applies to `split_output` alone; other outputs go to the compute device whole.
    """

    outputs: tuple[int, ...]
    prefix: str = ""
    device_input: str = "device"
    section: str = "optional"
    """The section, ``required`` or ``optional``, that the added inputs go to, as saved workflows have them."""
    splits: bool = False
    default_virtual_vram_gb: float = 4.0
    offload_input: str = ""
    """The name of an added choice of the device where the model waits, for packs that move models by themselves."""
    donors_by_switch: bool = False
    """A switch `use_other_vram` stands for the choice of donors: off is the cpu, on every other card and then cpu."""

    @property
    def split_output(self) -> int:
        return self.outputs[0]


@dataclass(frozen=True)
class NodeVariant:
    """One node made from a wrapped loader. `parts` share the loader's outputs among them."""

    node_id: str
    title_suffix: str
    parts: tuple[DevicePart, ...]
    fixed_inputs: tuple[tuple[str, object], ...] = ()
    """Inputs of the wrapped loader that are not offered but always passed with this value."""
    options: tuple[str, ...] = ("eject_models", "keep_loaded", "high_precision_loras", "strategy")
    """The optional inputs that follow a split's, in the order in which saved workflows have them."""
    description: str = ""

    @property
    def splits(self) -> bool:
        return any(part.splits for part in self.parts)


@dataclass(frozen=True)
class WrappedLoader:
    """A loader node by its id in ComfyUI, and the variants that it gets."""

    target: str
    variants: tuple[NodeVariant, ...]
    pack_follows: bool = False
    """The pack's own nodes ask for the device again: let them run on the device of what our variants returned."""


@dataclass(frozen=True)
class OwnNode:
    """A node class of the plugin's own, under its node id.

    For each of `device_inputs` the node gets a required input that lists the devices.
    """

    node_id: str
    title: str
    node_class: type
    device_inputs: tuple[str, ...] = ()


ALL_OUTPUTS = (0, 1, 2)


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
