"""Turn the loaders that plugins wrap into ComfyUI nodes: at import, and again when all other packs are loaded."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from multigpu.multigpu_core.comfy.host.compatibility import Feature, comfy_nodes
from multigpu.multigpu_core.comfy.host.loader_class import is_v3
from multigpu.multigpu_core.comfy.packs.target_packs import PacksHere, rivals, target_of
from multigpu.multigpu_core.contract.loaders import NodeVariant
from multigpu.multigpu_core.plugins import OwnNode, PluginManager, TargetPack, WrappedLoader

from .loading import LoadContext
from .variants import VariantNode, make_own_node, make_variant, origin_of_ours

log = structlog.get_logger("multigpu")


def usual_base(variant: NodeVariant) -> type[VariantNode]:
    """The base class of every variant whose models are on this machine."""
    return VariantNode


class NodeRegistration:
    """The nodes of one framework, in the mappings that ComfyUI reads from a node pack."""

    def __init__(
        self,
        plugins: PluginManager,
        context: LoadContext,
        base_of: Callable[[NodeVariant], type[VariantNode]] = usual_base,
    ) -> None:
        self._plugins = plugins
        self._base_of = base_of
        self._context = context
        self._waiting: list[tuple[str, WrappedLoader]] = []
        self._found: list[tuple[str, WrappedLoader]] = []
        self._taken: dict[str, list[str]] = {}
        self._owners: dict[str, str] = {}
        self._targets: dict[str, dict[str, TargetPack]] = {}
        self.classes: dict[str, type] = {}
        self.titles: dict[str, str] = {}

    def register(self) -> None:
        """Make the nodes of every loader that is there. Ids that somebody else has are left to them."""
        for folder in rivals():
            log.warning(
                "rival_found",
                message=f"ComfyUI-MultiGPU is in custom_nodes/{folder} and has nodes of the same ids: it keeps all "
                "that it registers. Remove or disable one of the two extensions and restart ComfyUI.",
                folder=folder,
            )
        for plugin, loader in list(self._plugins.loaders()):
            self._register(plugin, loader)
        self._tell_of_taken()
        self._note_targets(None)
        self._follow()

    def register_late(self) -> None:
        """Make the nodes of loaders that appeared since, and put them where ComfyUI serves nodes from."""
        waiting, self._waiting = self._waiting, []
        before = set(self.classes)
        self._give_up_lost_ids()
        for plugin, loader in waiting:
            self._register(plugin, loader)
        self._tell_of_taken()
        self._note_targets(PacksHere())
        self._follow()
        late = [node_id for node_id in self.classes if node_id not in before]
        origin = origin_of_ours(self.classes[node_id] for node_id in before)
        for node_id in late:
            self.classes[node_id].RELATIVE_PYTHON_MODULE = origin  # type: ignore[attr-defined]
            comfy_nodes.NODE_CLASS_MAPPINGS[node_id] = self.classes[node_id]
            titles_in_comfyui()[node_id] = self.titles[node_id]

    def _register(self, plugin: str, loader: WrappedLoader | OwnNode) -> None:
        try:
            if isinstance(loader, OwnNode):
                node = make_own_node(loader, self._context)
                node.INPUT_TYPES()  # type: ignore[attr-defined]  # one that cannot say its inputs fails here
                self._add(plugin, loader.node_id, loader.title, node)
            elif loader.target in comfy_nodes.NODE_CLASS_MAPPINGS:
                self._wrap(plugin, loader)
            else:
                self._waiting.append((plugin, loader))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin's or a pack's class can fail in any way
            self._plugins.fail(plugin, error)

    def _follow(self) -> None:
        """Let a pack's own nodes follow the models of our loaders. Its loaders are asked for a device by their user."""
        loaders = {loader.target for _, loader in self._found if loader.makes_models}
        for plugin, loader in self._found:
            if loader.pack is not None:
                origin = _origin(comfy_nodes.NODE_CLASS_MAPPINGS[loader.target])
                own = [
                    node
                    for node_id, node in comfy_nodes.NODE_CLASS_MAPPINGS.items()
                    if node_id not in loaders and node_id not in self.classes and _origin(node) == origin
                ]
                try:
                    self._context.packs.follow(own, loader.pack)
                except KeyboardInterrupt:
                    raise
                except BaseException as error:  # as above
                    self._plugins.fail(plugin, error)

    def _wrap(self, plugin: str, loader: WrappedLoader) -> None:
        wrapped = comfy_nodes.NODE_CLASS_MAPPINGS[loader.target]
        off = self._context.missing  # start-up has logged what it is, and why
        has_offload_globals = loader.pack is not None and loader.pack.offload_globals
        if (Feature.V3_LOADERS in off and is_v3(wrapped)) or (Feature.PACK_DEVICES in off and has_offload_globals):
            return
        target = target_of(wrapped)
        self._targets.setdefault(plugin, {})[target.name] = target
        title = titles_in_comfyui().get(loader.target, loader.target)
        for variant in loader.variants:
            node = make_variant(wrapped, variant, self._context, loader.pack, self._base_of(variant))
            node.INPUT_TYPES()  # a class that cannot say its inputs fails here, not in every listing of nodes
            self._add(plugin, variant.node_id, f"{variant.title_suffix}: {title}", node)
        self._found.append((plugin, loader))

    def _add(self, plugin: str, node_id: str, title: str, node: type) -> None:
        if node_id in comfy_nodes.NODE_CLASS_MAPPINGS or node_id in self.classes:
            self._taken.setdefault(self._keeper_of(node_id), []).append(node_id)
            self._plugins.note_nodes(plugin, taken=(node_id,))
            return
        self.classes[node_id] = node
        self.titles[node_id] = title
        self._owners[node_id] = plugin
        self._plugins.note_nodes(plugin, nodes=(node_id,))

    def _give_up_lost_ids(self) -> None:
        """A pack that ComfyUI loaded after us may have put nodes of its own in the place of ours."""
        for node_id, plugin in self._owners.items():
            served = comfy_nodes.NODE_CLASS_MAPPINGS.get(node_id)
            if served is not self.classes[node_id]:
                self._taken.setdefault(self._keeper_of(node_id), []).append(node_id)
                self._plugins.note_nodes(plugin, taken=(node_id,))

    def _keeper_of(self, node_id: str) -> str:
        """Whose node is served under an id that we want, too."""
        served = comfy_nodes.NODE_CLASS_MAPPINGS.get(node_id)
        return str(target_of(served)) if served is not None else self._owners.get(node_id, "nobody")

    def _tell_of_taken(self) -> None:
        """One line for each pack, however many ids it keeps."""
        for keeper, node_ids in self._taken.items():
            shown = ", ".join(node_ids[:3]) + (", …" if len(node_ids) > 3 else "")
            log.warning(
                "node_ids_taken",
                message=f"{keeper} has {len(node_ids)} node ids that are ours too ({shown}): its nodes are served",
                keeper=keeper,
                node_ids=node_ids,
            )
        self._taken.clear()

    def _note_targets(self, here: PacksHere | None) -> None:
        """Enter into the records what every plugin is for; `here` is None while ComfyUI still loads packs."""
        absent: dict[str, dict[str, None]] = {plugin: {} for plugin in self._plugins.records}
        for plugin, loader in self._waiting:
            absent[plugin][loader.target] = None
        for plugin, loaders in absent.items():
            targets = self._targets.get(plugin, {})
            named = self._plugins.pack_named_by(plugin)
            if here is not None and named and not targets:
                targets = {named: here.named(named)}
            self._plugins.note_targets(plugin, targets.values(), loaders)


def titles_in_comfyui() -> dict[str, str]:
    """The titles of ComfyUI's nodes, by their ids; a dict of nobody's where this ComfyUI keeps none."""
    return getattr(comfy_nodes, "NODE_DISPLAY_NAME_MAPPINGS", {})


def _origin(node: type) -> str:
    """The pack that a node class is from."""
    return node.__module__.split(".")[0]
