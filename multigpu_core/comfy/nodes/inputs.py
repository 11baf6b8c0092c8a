"""The inputs that our nodes add to a loader's own, each with its tooltip."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from multigpu.multigpu_core.contract.loaders import DevicePart, ExtraInput, NodeVariant, OwnNode

if TYPE_CHECKING:
    from multigpu.multigpu_core.comfy.host.host import Host

DEVICE_TYPE = "MULTIGPUDEVICE"
"""ComfyUI's name for the type of a device that one node hands to another."""
OUTPUT_TOOLTIP = "The device, for the nodes that use this model."

SUBJECTS = {"unet_": "the diffusion model", "clip_": "the text encoder", "vae_": "the VAE"}
"""What the inputs of a part are about, by their prefix, where a node has several."""


@dataclass(frozen=True)
class InputSpec:
    """One added input, in ComfyUI's own terms."""

    name: str
    section: str
    spec: tuple[Any, dict[str, Any]]
    is_device: bool = False
    """It is a choice of devices."""
    before: str = ""
    """The wrapped class's input that follows it; the section's end where there is none."""

    @staticmethod
    def options(spec: Any) -> list[Any]:
        """The choices of a combo input as ComfyUI writes it: the type itself (V1) or an option (V3)."""
        if isinstance(spec[0], (list, tuple)):
            return list(spec[0])
        return list(spec[1].get("options") or []) if len(spec) > 1 else []


def added_inputs(variant: NodeVariant, host: Host) -> Iterator[InputSpec]:
    """All inputs of a variant, in the order of its widgets within each section."""
    for part in variant.parts:
        for added in _part_inputs(part, host, variant.default_device):
            yield replace(added, before=part.before or (part.replaces.name if part.replaces else ""))
    for part in variant.parts:
        if part.splits:
            yield _expert_input(part)
    if variant.splits:
        yield from (_option(name, host) for name in variant.options)


def with_added(
    theirs: Mapping[str, Mapping[str, Any]], added: Iterable[InputSpec], hidden: Iterable[str]
) -> dict[str, dict[str, Any]]:
    """A class's inputs with ours among them, each where it belongs, and without those that are `hidden`."""
    inputs = {section: dict(specs) for section, specs in theirs.items()}
    for each in added:
        section = inputs.setdefault(each.section, {})
        if each.name in section:  # ours takes the place of theirs
            section[each.name] = each.spec
        else:
            inputs[each.section] = _inserted(section, each)
    for section in inputs.values():
        for name in hidden:
            section.pop(name, None)
    return inputs


def _inserted(section: dict[str, Any], added: InputSpec) -> dict[str, Any]:
    names = list(section)
    at = names.index(added.before) if added.before in section else len(names)
    items = list(section.items())
    return dict([*items[:at], (added.name, added.spec), *items[at:]])


def extra_input(extra: ExtraInput, host: Host) -> InputSpec:
    """An input that the wrapped class takes without listing it."""
    options: dict[str, Any] = {"tooltip": extra.tooltip}
    if extra.kind != "DEVICE":
        return InputSpec(extra.name, extra.section, (extra.kind, options), before=extra.before)
    choice = (list(host.registry.names()), {"default": "cpu", **options})
    return InputSpec(extra.name, extra.section, choice, is_device=True, before=extra.before)


def _part_inputs(part: DevicePart, host: Host, default: str) -> Iterator[InputSpec]:
    if part.socket:
        tooltip = "The device to run on: link it to the output of that name of the model's loader, or to a Device "
        tooltip += "Selector. Without a link the node runs on the model's own device."
        yield InputSpec(part.device_name, part.section, (DEVICE_TYPE, {"tooltip": tooltip}))
    else:
        yield device_input(part.device_name, part.section, host, _device_tooltip(part), default)
    if part.offload_input:
        devices = list(host.registry.names())
        tooltip = "Where the model waits while it is not needed: the cpu, or a GPU with free memory."
        yield InputSpec(part.offload_input, part.section, (devices, {"default": "cpu", "tooltip": tooltip}), True)
    if part.splits:
        yield from _donor_inputs(part, host)


def device_input(name: str, section: str, host: Host, tooltip: str, default: str = "") -> InputSpec:
    """A choice of one device; `default`, or the first accelerator, unless the user says otherwise."""
    devices = list(host.registry.names())
    if default not in devices:
        default = next((device for device in devices if device != "cpu"), "cpu")
    return InputSpec(name, section, (devices, {"default": default, "tooltip": tooltip}), is_device=True)


def own_device_inputs(node: OwnNode, host: Host) -> list[InputSpec]:
    """The choices of devices that a plugin's own node class gets."""
    return [
        device_input(name, "required", host, "The device that this node works with.") for name in node.device_inputs
    ]


def _subject(part: DevicePart) -> str:
    return SUBJECTS.get(part.prefix, "this model")


def _device_tooltip(part: DevicePart) -> str:
    if part.splits:
        return (
            f"The device that computes {_subject(part)}, and stores what the donors do not. Its remaining memory is "
            "for inference and for streamed weights."
        )
    if not part.outputs:
        return "The device that this node computes on; the models that it uses go there."
    return f"The device that stores and computes {_subject(part)}."


def _donor_inputs(part: DevicePart, host: Host) -> Iterator[InputSpec]:
    yield InputSpec(
        f"{part.prefix}virtual_vram_gb",
        part.section,
        (
            "FLOAT",
            {
                "default": part.default_virtual_vram_gb,
                "min": 0.0,
                "max": 1024.0,
                "step": 0.1,
                "tooltip": f"How many GB (of 1024³ bytes) of {_subject(part)} to store on the donor instead of the "
                "compute device. More than the model's size offloads all that can be; 0 does not split.",
            },
        ),
    )
    if part.donors_by_switch:
        yield InputSpec(
            f"{part.prefix}use_other_vram",
            part.section,
            ("BOOLEAN", {"default": False, "tooltip": OTHER_CARDS}),
        )
        return
    donors = {
        "default": "cpu",
        "tooltip": "The device that stores the offloaded weights; they are prefetched to the compute device. What does "
        "not fit there goes to the cpu.",
    }
    yield InputSpec(f"{part.prefix}donor_device", part.section, (list(host.registry.names()), donors), is_device=True)


def _expert_input(part: DevicePart) -> InputSpec:
    return InputSpec(
        f"{part.prefix}expert_mode_allocations",
        "optional",
        (
            "STRING",
            {
                "default": "",
                "multiline": False,
                "tooltip": f"Each device's share of {_subject(part)}; overrides virtual VRAM. Bytes "
                "(cuda:0,2.5gb;cuda:1,3g;cpu,*), ratios (cuda:0,25%;cpu,75%), fractions of each device's memory "
                "(cuda:0,0.21;cpu,0.08), or auto. * takes the rest. The log shows the string of every plan.",
            },
        ),
    )


def _switch(name: str, default: bool, tooltip: str, *, is_advanced: bool = False) -> InputSpec:
    """An `is_advanced` one is folded away by the front end until it is asked for."""
    options = {"default": default, "tooltip": tooltip, **({"advanced": True} if is_advanced else {})}
    return InputSpec(name, "optional", ("BOOLEAN", options))


OTHER_CARDS = "Store them on the other GPUs, one after the other, and on the cpu last. Off: on the cpu only."
OPTIONS = {
    "eject_models": _switch(
        "eject_models",
        False,
        "Unload other models from the compute device before this one is loaded. Models with keep_loaded stay.",
        is_advanced=True,
    ),
    "keep_loaded": _switch(
        "keep_loaded",
        False,
        "Keep this model on its devices when ComfyUI is asked to unload all models, and when it forgets this node's "
        "output. It is still unloaded if another model needs the memory, or if everything is freed.",
    ),
    "high_precision_loras": _switch(
        "high_precision_loras",
        True,
        "Apply LoRAs on the compute device, as for a model that is not split: the same image. Off: on the device that "
        "stores the weight.",
        is_advanced=True,
    ),
}


def _option(name: str, host: Host) -> InputSpec:
    if name != "strategy":
        return OPTIONS[name]
    tooltip = f"{host.strategies.summaries}. plugins.toml sets the default."
    return InputSpec(name, "optional", (host.strategies.names, {"default": host.default_strategy, "tooltip": tooltip}))
