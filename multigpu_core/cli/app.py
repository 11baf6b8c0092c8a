"""The `multigpu` command and its subcommands."""

from __future__ import annotations

import os
from typing import Annotated

import typer

import multigpu
from multigpu.multigpu_core.cli.cluster.command import cluster
from multigpu.multigpu_core.cli.demo.command import demo
from multigpu.multigpu_core.cli.doctor.command import doctor
from multigpu.multigpu_core.cli.plan.command import plan
from multigpu.multigpu_core.cli.verify.command import verify
from multigpu.multigpu_core.logs import configure_logging

from .bench import bench
from .devices import devices
from .new_integration import new_integration
from .plugins import plugins
from .plugins_here import CommandsWithPlugins, CommandWithStrategy
from .profile import profile
from .without_torch import INSTALL_TORCH, NO_TORCH_HERE

app = typer.Typer(name="multigpu", cls=CommandsWithPlugins, no_args_is_help=True)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"multigpu {multigpu.__version__}")
        raise typer.Exit


@app.callback()
def prepare(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """MultiGPU for ComfyUI, outside of ComfyUI. MULTIGPU_SIMULATE=2x8gb gives every command two simulated GPUs.

    Exit codes: 0 success, 1 a check failed, 2 invalid usage.
    """
    configure_logging("warning")  # by default structlog prints, and would be in the midst of --json
    if os.environ.get("MULTIGPU_SIMULATE"):
        # Imports torch, and must come before the commands look for devices.
        from multigpu.multigpu_core.simulation.environment import simulate_from_environment

        try:
            simulate_from_environment()
        except (RuntimeError, ValueError) as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(2) from None


app.command()(devices)
app.command()(profile)
app.command(cls=CommandWithStrategy)(plan)
app.command(cls=CommandWithStrategy)(verify)
app.command()(doctor)
app.command()(demo)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(bench)
app.command()(plugins)
app.command()(new_integration)
app.add_typer(cluster, name="cluster")


def main() -> None:
    """Runs the command line; the entry point of the installed script."""
    try:
        app()
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        typer.echo(f"error: {NO_TORCH_HERE} {INSTALL_TORCH}", err=True)
        raise SystemExit(2) from None
