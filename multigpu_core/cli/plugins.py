"""`multigpu plugins`: which plugins there are and whether they can be loaded, without ComfyUI and without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import multigpu
from multigpu import hookspecs
from multigpu.multigpu_core.logs import configure_logging, printable
from multigpu.multigpu_core.plugins import (
    Configuration,
    PackState,
    PluginManager,
    PluginRecord,
    TargetPack,
    built_in,
    built_in_names,
    carried_by_packs,
    installed,
    pack_folders,
    packs_in,
    plain_name,
    read_configuration,
    report_json,
    user_files,
    version_of_pack,
)
from multigpu.multigpu_core.plugins.strategies_of_plugins import strategies

SHIPPED = Path(multigpu.__file__).parent / "plugins.toml"


def plugins(
    as_json: Annotated[bool, typer.Option("--json", help="Print the records as JSON.")] = False,
    custom_nodes: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="ComfyUI's custom_nodes folder, to find plugins of packs. Not needed if MultiGPU is in it.",
        ),
    ] = None,
    user_directory: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="ComfyUI's user folder, for its plugins.toml.")
    ] = None,
) -> None:
    """List every plugin that is found, and whether it works.

    Which nodes a plugin registers is known inside ComfyUI alone: see its log, or GET /multigpu/plugins.
    Exit 0: every enabled plugin works; 1: one cannot be used; 2: invalid usage.
    """
    configure_logging("error")
    folders = custom_nodes or own_custom_nodes()
    if user_directory is None and folders:
        user_directory = folders[0].parent / "user"
    manager = plugins_of(folders, user_directory)
    if folders:
        _note_targets(manager, folders)
    records = list(manager.records.values())
    console = Console()
    if as_json:
        console.print_json(data=report_json(records))
    else:
        console.print(_table(records))
        for record in records:
            if record.enabled and record.why_not:
                why_not = printable(f"{record.name}: {record.why_not}")
                console.print(why_not, style="red", markup=False, soft_wrap=True)
        for problem in manager.problems:
            console.print(printable(str(problem)), style="yellow", markup=False)
    raise typer.Exit(any(record.enabled and record.why_not for record in records))


def plugins_of(
    custom_nodes: Iterable[Path],
    user_directory: Path | None,
    default_planner: Callable[[Configuration], object] | None = None,
) -> PluginManager:
    """All plugins that are found from outside of ComfyUI, registered, and what is wrong in the settings.

    `default_planner` gives, for the settings, what makes the plans that no plugin makes; without it there are none.
    """
    configuration = read_configuration([SHIPPED, *user_files(user_directory)], built_in_names())
    manager = PluginManager(hookspecs, configuration)
    if default_planner is not None:
        manager.register(default_planner(configuration), "default_planner")
    for found in (built_in(), installed(), carried_by_packs(packs_in(custom_nodes))):
        manager.register_all(found)
    manager.problems += [*configuration.unknown_plugins(manager.records), *configuration.idle_options()]
    manager.problems += configuration.unknown_strategy(strategies(manager).names)
    return manager


def own_custom_nodes() -> list[Path]:
    """The custom_nodes folder that this package is a node pack of, if it is one."""
    folder = Path(multigpu.__file__).parent.parent
    return [folder] if folder.name == "custom_nodes" else []


def _note_targets(manager: PluginManager, folders: list[Path]) -> None:
    packs = pack_folders(folders)
    for plugin in list(manager.records):
        if name := manager.pack_named_by(plugin):
            pack = packs.get(plain_name(name))
            target = TargetPack(name, state=PackState.ABSENT)
            if pack is not None:
                target = TargetPack(pack.name, version_of_pack(pack), PackState.PRESENT)
            manager.note_targets(plugin, (target,), ())


def _table(records: list[PluginRecord]) -> Table:
    table = Table("Plugin", "Version", "Source", "Node pack", "State")
    for record in records:
        packs = ", ".join(str(pack) if pack.state is PackState.PRESENT else f"no {pack}" for pack in record.targets)
        cells = (escape(printable(cell)) for cell in (record.name, record.version, record.source, packs))
        table.add_row(*cells, _state(record))
    return table


def _state(record: PluginRecord) -> str:
    if record.works:
        return "[green]works[/]"
    return "[red]failed[/]" if record.enabled else "off"
