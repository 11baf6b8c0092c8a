"""The `multigpu` command and its subcommands."""

from __future__ import annotations

import typer

from .bench import bench
from .demo import demo
from .devices import devices
from .doctor import doctor
from .new_integration import new_integration
from .plan import plan
from .plugins import plugins
from .profile import profile

app = typer.Typer(name="multigpu", help="MultiGPU for ComfyUI, outside of ComfyUI.", no_args_is_help=True)
app.command()(devices)
app.command()(profile)
app.command()(plan)
app.command()(doctor)
app.command()(demo)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(bench)
app.command()(plugins)
app.command()(new_integration)


def main() -> None:
    """Runs the command line; the entry point of the installed script."""
    app()
