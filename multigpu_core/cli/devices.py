"""`multigpu devices`: every device that can hold tensors, as a table or as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from .plugins_here import PluginsHere

if TYPE_CHECKING:
    from multigpu.multigpu_core.devices import DeviceInfo, DeviceSurvey

GIB = 1024**3


def devices(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")] = False,
) -> None:
    """List every device that can hold tensors, with its memory now.

    Exit 0, also if a device fails to respond: it is listed as failed.
    """
    survey = ctx.ensure_object(PluginsHere).registry.survey()
    if as_json:
        typer.echo(json.dumps(_report(survey), indent=2))
        return
    console = Console()
    console.print(_table(survey.devices))
    for problem in survey.problems:
        console.print(f"{problem.subject}: {problem.error}", style="yellow", markup=False)


def _report(survey: DeviceSurvey) -> dict[str, object]:
    return {
        "devices": [asdict(device) for device in survey.devices],
        "problems": [{"subject": problem.subject, "error": str(problem.error)} for problem in survey.problems],
    }


def _table(devices: tuple[DeviceInfo, ...]) -> Table:
    table = Table(title="Devices")
    for heading in ("Device", "Name"):
        table.add_column(heading)
    for heading in ("Total GiB", "Free GiB", "Pinned host memory", "Streams"):
        table.add_column(heading, justify="right")
    for device in devices:
        memory = (f"{device.total_bytes / GIB:.2f}", f"{device.free_bytes / GIB:.2f}")
        abilities = (_yes_or_no(device.can_pin_host_memory), _yes_or_no(device.has_streams))
        table.add_row(device.name, device.marketing_name, *memory, *abilities)
    return table


def _yes_or_no(value: bool) -> str:
    return "yes" if value else "no"
