"""`multigpu doctor`: find out why something does not work on this machine, and what to do."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from multigpu.multigpu_core.logs import printable

from .checks import findings
from .collect import snapshot
from .finding import Severity

STYLES = {Severity.PROBLEM: "bold red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}


def doctor(
    comfyui: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="ComfyUI's folder; not needed if this copy is in its custom_nodes."
        ),
    ] = None,
    server: Annotated[str, typer.Option(help="Also check a running ComfyUI, by default http://127.0.0.1:8188.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")] = False,
) -> None:
    """Look at this machine, its torch and its ComfyUI, and say what is wrong and what to do.

    Exit 0: no problems; 1: a problem was found; 2: invalid usage.
    """
    with Console(stderr=True).status("Checking the machine and importing ComfyUI"):
        here = snapshot(comfyui, server)
    found = findings(here)
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in found], indent=2))
    else:
        console = Console()
        names = ", ".join(info.name for info in here.devices)
        console.print(f"ComfyUI {here.comfyui_version or 'unknown'}, devices: {names}", highlight=False, markup=False)
        for finding in found:
            what = printable(f"{finding.severity.value}: {finding.what}")  # names, and what a server says
            console.print(what, style=STYLES[finding.severity], markup=False)
            console.print(Padding(Text(printable(finding.todo)), (0, 0, 0, 4), expand=False))
        if not found:
            console.print("No problems found.", style="green")
    raise typer.Exit(int(any(finding.severity is Severity.PROBLEM for finding in found)))
