"""The help page of every node, as markdown: made from what the node is made of, so that the two cannot drift.

ComfyUI's page asks for `docs/NODE_ID.md` in a pack's WEB_DIRECTORY. A page is the same on every machine: devices are
described, and what the wrapped class brings is left to the class.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from multigpu.multigpu_core.comfy.nodes.inputs import (
    DEVICE_TYPE,
    OUTPUT_TOOLTIP,
    InputSpec,
    added_inputs,
    extra_input,
    own_device_inputs,
)
from multigpu.multigpu_core.comfy.nodes.registration import titles_in_comfyui
from multigpu.multigpu_core.contract.loaders import NodeVariant, OwnNode, WrappedLoader

if TYPE_CHECKING:
    from multigpu.multigpu_core.comfy.host.host import Host
    from multigpu.multigpu_core.plugins import PluginManager

CORE = "ComfyUI"
SWITCH = {True: "on", False: "off"}
PLACE = "In ComfyUI under Workflow, Browse Templates, by this extension's name; as files in its folder `examples`."
DEVICES = (
    "A device is `cpu` or an accelerator by its number, such as `cuda:0` and `cuda:1` (NVIDIA, and AMD under ROCm), "
    "`xpu:0` (Intel), `npu:0` (Ascend), `mlu:0` (Cambricon), `mps` (Apple) or `directml:0`. The list shows those of "
    "the machine that ComfyUI runs on; `multigpu devices` shows them with their memory. A workflow that names "
    "another one opens, and says at this node which there are."
)

SHARES = (
    ("cuda:0,2.5gb;cuda:1,3gb;cpu,*", "bytes: 2.5 GB on cuda:0, 3 GB on cuda:1, the rest on the cpu"),
    ("cuda:0,25%;cpu,75%", "percent of the model"),
    ("cuda:0,0.5;cuda:1,0.8;cpu,*", "fractions of each device's memory, the rest on the cpu"),
    ("auto", "what fits now, with room for inference, placed for the shortest step"),
)
"""Allocation strings as examples, and what each means."""

NO_DEVICE = {
    "There is no device": "The workflow names a device that is not here. Choose one of those that the message lists; "
    "if a GPU is missing, the message says what hides it, such as ComfyUI's `--cuda-device`.",
}
REFUSALS = {
    **NO_DEVICE,
    "OutOfMemoryError": "The model is whole on this device. Choose another, or use a `…DisTorch2MultiGPU` node where "
    "its loader has one: that splits the model.",
}
SPLIT_REFUSALS = {
    **NO_DEVICE,
    "Allocation string": "The message marks the place in the string and says what would be right there.",
    "would have to store": "The shares do not fit. Give that device less, free memory on it, or write `auto`; the "
    "message has the bytes that are asked for and those that are free.",
    "cannot split this model": "The message says why. The `…MultiGPU` node of the same loader places the model whole.",
    "ran out of memory": "Less memory was free than reported. With virtual VRAM and `auto` more is offloaded "
    "automatically, and the log says what to set; for a string that you wrote, the message suggests one.",
}
"""By a part of what a node can say when it refuses: what to do."""


@dataclass(frozen=True)
class HelpPage:
    """One page: the node's id, and its markdown."""

    node_id: str
    text: str


def help_pages(plugins: PluginManager, host: Host, examples: Mapping[str, Iterable[str]]) -> Iterator[HelpPage]:
    """A page for every node that the plugins offer, whether or not the pack that it is for is here.

    `examples` are the node ids in each example workflow, by the workflow's name.
    """
    for plugin, loader in list(plugins.loaders()):
        if isinstance(loader, OwnNode):
            yield _own_page(loader, host, _using(loader.node_id, examples))
            continue
        pack = plugins.pack_named_by(plugin) or CORE
        for variant in loader.variants:
            yield _variant_page(variant, loader, pack, host, _using(variant.node_id, examples))


def _using(node_id: str, examples: Mapping[str, Iterable[str]]) -> list[str]:
    return [name for name, used in examples.items() if node_id in used]


def _variant_page(
    variant: NodeVariant, loader: WrappedLoader, pack: str, host: Host, workflows: Iterable[str]
) -> HelpPage:
    added = [*added_inputs(variant, host), *(extra_input(extra, host) for extra in variant.extra_inputs)]
    sections = [
        f"# {variant.title_suffix}: {_title_of(loader.target, pack)}",
        _what(variant, loader, pack),
        *_inputs(added),
        *_theirs(variant, loader, pack),
        *(_strings() if variant.splits else ()),
        *(("## Devices", DEVICES) if any(each.is_device for each in added) else ()),
        *_workflows(workflows),
        *_when_wrong(_refusals(variant, added)),
    ]
    return HelpPage(variant.node_id, "\n\n".join(sections) + "\n")


def _own_page(node: OwnNode, host: Host, workflows: Iterable[str]) -> HelpPage:
    sections = [
        f"# {node.title}",
        f"`{node.node_id}`. {getattr(node.node_class, 'DESCRIPTION', '')}".strip(),
        *_inputs(own_device_inputs(node, host)),
        "## Devices",
        DEVICES,
        *_workflows(workflows),
        *_when_wrong(NO_DEVICE),
    ]
    return HelpPage(node.node_id, "\n\n".join(sections) + "\n")


def _title_of(target: str, pack: str) -> str:
    """A loader's title where ComfyUI itself has it; a pack's is the pack's to change, so its id stands for it."""
    return titles_in_comfyui().get(target, target) if pack == CORE else target


def _what(variant: NodeVariant, loader: WrappedLoader, pack: str) -> str:
    whose = f"`{variant.node_id}`: `{loader.target}` of {pack}"
    if variant.splits:
        made = (
            f"{whose}, with the weights split over several devices: one computes, and others store what it shall not "
        )
        made += "hold. Each stored block is copied to it ahead of its turn. The picture is that of one device."
    elif variant.device_output or any(part.outputs for part in variant.parts):
        made = f"{whose}, with what it loads on the device that you choose."
    elif variant.parts:
        made = f"{whose}, computing on the device that you choose."
    else:
        made = f"{whose}, as a node of its own."
    return f"{made}\n\n{variant.description}" if variant.description else made


def _refusals(variant: NodeVariant, added: Iterable[InputSpec]) -> Mapping[str, str]:
    if variant.splits:
        return SPLIT_REFUSALS
    if not any(each.is_device for each in added):
        return {}
    return REFUSALS if any(part.outputs for part in variant.parts) else NO_DEVICE


def _inputs(added: Iterable[InputSpec]) -> Iterator[str]:
    """One list item for each input: what it takes, what it is by default, and its tooltip."""
    items = [f"- **`{each.name}`** ({_kind(each)}): {as_markdown(each.spec[1]['tooltip'])}" for each in added]
    if items:
        yield "## Inputs that this extension adds"
        yield "\n".join(items)


def as_markdown(tooltip: str) -> str:
    return tooltip.replace("*", r"\*")


def _kind(added: InputSpec) -> str:
    kind, options = added.spec
    default = options.get("default")
    if added.is_device:
        return f"a device; {'`cpu`' if default == 'cpu' else 'the first accelerator'} unless you choose"
    if kind == DEVICE_TYPE:
        return "a link"
    if choices := InputSpec.options(added.spec):
        *others, last = (f"`{choice}`" for choice in choices)
        return f"{', '.join(others)} or {last}; `{default}` unless you choose"
    if kind == "BOOLEAN":
        return f"on or off; {SWITCH[bool(default)]} unless you choose"
    if kind == "FLOAT":
        return f"a number from {options['min']:g} to {options['max']:g}; {default:g} unless you choose"
    return "text; empty unless you write some" if kind == "STRING" else f"a link of type `{kind}`"


def _theirs(variant: NodeVariant, loader: WrappedLoader, pack: str) -> Iterator[str]:
    yield f"## What comes from {loader.target}"
    lines = [f"All other inputs and the outputs are those of `{loader.target}`, as it is installed: see its own help."]
    lines += [f"`{name}` is not offered: it is always `{value}`." for name, value in variant.fixed_inputs]
    lines += [
        f"`{part.device_name}` stands in the place of its `{part.replaces.name}`."
        for part in variant.parts
        if part.replaces is not None
    ]
    if variant.device_output:
        lines.append(f"There is one output more, `{variant.device_output}`. {OUTPUT_TOOLTIP}")
    where = (
        "where your version of ComfyUI has it" if pack == CORE else f"where {pack} is installed and could be imported"
    )
    lines.append(f"This node is there {where}.")
    yield " ".join(lines)


def _strings() -> Iterator[str]:
    yield "## Allocation strings"
    # A list: a table is wider than ComfyUI's help at its narrowest.
    yield "\n".join(f"- `{text}`: {meaning}" for text, meaning in SHARES)
    yield (
        "Units are b, kb, mb, gb, tb in powers of 1024, or %. One string has one kind of amounts. `*` takes the rest; "
        "in bytes and fractions the rest goes to the cpu where no device has one. The log has each plan as a table, "
        "and the string that makes it again."
    )


def _workflows(names: Iterable[str]) -> Iterator[str]:
    items = [f"- {name}" for name in names]
    if items:
        yield "## Workflows that use it"
        yield "\n".join(items)
        yield PLACE


def _when_wrong(refusals: Mapping[str, str]) -> Iterator[str]:
    if refusals:
        yield "## When something is wrong"
        yield "\n".join(f"- *{said}*: {todo}" for said, todo in refusals.items())
        yield "`multigpu doctor` looks at the whole machine, and says for each finding what to do."
