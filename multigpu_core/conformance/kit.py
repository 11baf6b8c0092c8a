"""The conformance kit: does a plugin keep what its users and ComfyUI count on?

`check_plugin` needs neither torch nor ComfyUI. `check_loader` tries every variant of one loader, on the real class or a
stand-in for it, in a ComfyUI on simulated accelerators (the fixture `simulated_comfyui`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from multigpu import hookspecs
from multigpu.multigpu_core.plugins import NodeVariant, OwnNode, PluginManager, WrappedLoader

if TYPE_CHECKING:
    from multigpu.multigpu_core.provisioning.in_process import ComfyUI

    from .trial import LoaderTrial

SECTIONS = ("required", "optional")


class ConformanceError(AssertionError):
    """A plugin that does not keep what is expected. `problems` has one sentence for each thing that is wrong."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


def check_plugin(plugin: object) -> None:
    """Check that MultiGPU accepts a plugin, and that the nodes it describes can exist beside each other.

    Raises:
        ConformanceError: all that is wrong.
    """
    problems = list(_problems_of_plugin(plugin))
    if problems:
        raise ConformanceError(problems)


def check_loader(plugin: object, trial: LoaderTrial, comfyui: ComfyUI) -> None:
    """Check every variant that a plugin gives one loader: inputs, devices, exceptions, results and unloading.

    Raises:
        ConformanceError: all that is wrong; `check_plugin`'s problems first, and then alone.
    """
    from .loader_trials import problems_of_variant

    check_plugin(plugin)
    variants = [
        (variant, loader)
        for loader in _said(plugin)
        if isinstance(loader, WrappedLoader) and loader.target == trial.target
        for variant in loader.variants
    ]
    if not variants:
        raise ConformanceError([f"The plugin has no variants for {trial.target}."])
    problems = [
        f"{variant.node_id}: {problem}"
        for variant, loader in variants
        for problem in problems_of_variant(variant, loader, trial, comfyui)
    ]
    if problems:
        raise ConformanceError(problems)


def _problems_of_plugin(plugin: object) -> Iterator[str]:
    manager = PluginManager(hookspecs)
    manager.register(plugin, "plugin")
    said = [loader for _, loader in manager.loaders()]
    record = manager.records["plugin"]
    if not record.works:
        yield record.why_not
        return
    if [loader for _, loader in manager.loaders()] != said:
        yield "multigpu_wrap_loader answers differently when it is asked again."
    for node_id, count in Counter(_node_ids(said)).items():
        if count > 1:
            yield f"{node_id}: {count} nodes have this id."
    for loader in said:
        if isinstance(loader, WrappedLoader):
            for variant in loader.variants:
                yield from (f"{variant.node_id}: {problem}" for problem in _problems_of_description(variant, loader))


def _problems_of_description(variant: NodeVariant, loader: WrappedLoader) -> Iterator[str]:
    if not variant.node_id or variant.node_id == loader.target:
        yield "a variant needs a node id of its own."
    outputs = Counter(index for part in variant.parts for index in part.outputs)
    if shared := [index for index, count in outputs.items() if count > 1]:
        yield f"outputs {shared} belong to two parts."
    names = Counter(part.device_name for part in variant.parts)
    if double := [name for name, count in names.items() if count > 1]:
        yield f"inputs {double} are added twice: give the parts a prefix."
    for part in variant.parts:
        if part.section not in SECTIONS:
            yield f"there is no section {part.section!r} of inputs; it is one of {', '.join(SECTIONS)}."
        if part.splits and not part.outputs:
            yield "a part that splits needs the output that is split."


def _node_ids(said: Iterable[WrappedLoader | OwnNode]) -> Iterator[str]:
    for loader in said:
        if isinstance(loader, OwnNode):
            yield loader.node_id
        else:
            yield from (variant.node_id for variant in loader.variants)


def _said(plugin: object) -> list[WrappedLoader | OwnNode]:
    manager = PluginManager(hookspecs)
    manager.register(plugin, "plugin")
    return [loader for _, loader in manager.loaders()]
