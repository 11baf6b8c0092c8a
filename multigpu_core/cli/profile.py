"""`multigpu profile`: measure how fast this machine's links and devices are, and save the result."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from .plugins_here import PluginsHere

if TYPE_CHECKING:
    from multigpu.multigpu_core.devices import DeviceRegistry, HardwareProfile

GIGA = 1e9
TERA = 1e12


def profile(
    ctx: typer.Context,
    again: Annotated[bool, typer.Option("--again", help="Measure again.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")] = False,
) -> None:
    """Measure the links between all devices and what each computes, in under 20 seconds, for plans to go by.

    Exit 0: measured and saved; 2: it cannot be measured or saved.
    """
    # Imports torch, which the other commands do without.
    from multigpu.multigpu_core.devices import ProfileError, load_profile, profile_file

    registry = ctx.ensure_object(PluginsHere).registry
    try:
        found = (None if again else load_profile(registry)) or _measured(registry, Console(stderr=True))
    except ProfileError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    if as_json:
        typer.echo(json.dumps(_report(found), indent=2))
        return
    console = Console()
    if found.links:
        console.print(_links(found))
    else:
        console.print("There is only one device, so there is no link to measure.")
    console.print(_rates(found))
    console.print(f"Saved in {profile_file()}; --again measures again.", markup=False)


def _measured(registry: DeviceRegistry, console: Console) -> HardwareProfile:
    from multigpu.multigpu_core.devices import Measured, profile_anew

    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("Measuring", total=None)

        def show(measured: Measured) -> None:
            bar.update(task, description=f"Measured {measured.what}", completed=measured.number, total=measured.total)
            if measured.failure:
                bar.console.print(f"{measured.what}: {measured.failure}", style="yellow", markup=False)

        return profile_anew(registry, show)


def _report(profile: HardwareProfile) -> dict[str, object]:
    links = [
        {
            "from": source,
            "to": target,
            "bytes_per_second": link.bytes_per_second,
            "pageable_bytes_per_second": link.pageable_bytes_per_second,
            "latency_seconds": link.latency_seconds,
        }
        for (source, target), link in profile.links.items()
    ]
    return {"links": links, "flops_per_second": profile.flops_per_second}


def _links(profile: HardwareProfile) -> Table:
    table = Table(title="Links")
    for heading in ("From", "To"):
        table.add_column(heading)
    for heading in ("GB/s", "GB/s, ordinary host memory", "Latency, µs"):
        table.add_column(heading, justify="right")
    for (source, target), link in profile.links.items():
        figures = (link.bytes_per_second / GIGA, link.pageable_bytes_per_second / GIGA, link.latency_seconds * 1e6)
        table.add_row(source, target, *(f"{figure:.1f}" for figure in figures))
    return table


def _rates(profile: HardwareProfile) -> Table:
    dtypes = list(dict.fromkeys(dtype for rates in profile.flops_per_second.values() for dtype in rates))
    table = Table(title="Matrix multiplication, TFLOP/s")
    table.add_column("Device")
    for dtype in dtypes:
        table.add_column(dtype, justify="right")
    for device, rates in profile.flops_per_second.items():
        table.add_row(device, *(f"{rates[dtype] / TERA:.3g}" if dtype in rates else "-" for dtype in dtypes))
    return table
