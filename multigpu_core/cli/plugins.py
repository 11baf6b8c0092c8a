"""`multigpu plugins`: which plugins there are and whether they can be loaded, without ComfyUI and without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import multigpu
from multigpu import hookspecs
from multigpu.multigpu_core.logs import configure_logging
from multigpu.multigpu_core.plugins import (
    PluginManager,
    PluginRecord,
    built_in,
    carried_by_packs,
    installed,
    packs_in,
    read_configuration,
    report_json,
    user_files,
)

SHIPPED = Path(multigpu.__file__).parent / "plugins.toml"


def plugins(
    as_json: Annotated[bool, typer.Option("--json", help="Print the records as JSON.")] = False,
    custom_nodes: Annotated[
        list[Path] | None, typer.Option(help="A ComfyUI's custom_nodes folder, whose packs may carry plugins.")
    ] = None,
    user_directory: Annotated[Path | None, typer.Option(help="A ComfyUI's user folder, for its plugins.toml.")] = None,
) -> None:
    """List every plugin that is found, and exit 1 where one that is switched on cannot be used.

    Which nodes a plugin registers is known inside ComfyUI alone: see its log, or GET /multigpu/plugins.
    """
    configure_logging("error")
    configuration = read_configuration([SHIPPED, *user_files(user_directory)])
    manager = PluginManager(hookspecs, configuration)
    for found in (built_in(), installed(), carried_by_packs(packs_in(custom_nodes or ()))):
        manager.register_all(found)
    manager.problems += configuration.unknown_plugins(manager.records)
    records = list(manager.records.values())
    console = Console()
    if as_json:
        console.print_json(data=report_json(records))
    else:
        console.print(_table(records))
        for problem in manager.problems:
            console.print(str(problem), style="yellow", markup=False)
    raise typer.Exit(any(record.enabled and record.why_not for record in records))


def _table(records: list[PluginRecord]) -> Table:
    table = Table("Plugin", "Version", "Source", "State")
    for record in records:
        table.add_row(record.name, record.version, record.source, _state(record))
    return table


def _state(record: PluginRecord) -> str:
    if record.works:
        return "[green]works[/]"
    return f"[red]failed[/]: {escape(record.why_not)}" if record.enabled else "off"
