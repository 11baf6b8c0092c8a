"""What plugins add to the command line: commands, devices and file formats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup, TyperOption

from multigpu.multigpu_core.plugins import PluginManager
from multigpu.multigpu_core.plugins.extensions import commands, device_backends, file_formats
from multigpu.multigpu_core.plugins.strategies_of_plugins import strategies
from multigpu.multigpu_core.strategies.strategy import Strategies

from .plugins import own_custom_nodes, plugins_of

if TYPE_CHECKING:
    from multigpu.multigpu_core.allocation.inventory.of_file import Formats
    from multigpu.multigpu_core.devices import DeviceRegistry


class CommandsWithPlugins(TyperGroup):
    """Our own commands, then those of plugins, which are imported only for help and for a name that is not ours."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *commands(plugins_here(), self.commands)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if (own := super().get_command(ctx, cmd_name)) is not None:
            for option in own.params:
                if option.name == "strategy" and isinstance(option, TyperOption):
                    option.help = f"One of {', '.join(strategies_here().names)}."
            return own
        found = commands(plugins_here(), self.commands).get(cmd_name)
        if found is None:
            return None
        app = typer.Typer()
        app.command(cmd_name)(found)
        return typer.main.get_command(app)


def plugins_here() -> PluginManager:
    """The plugins that can be found without ComfyUI."""
    folders = own_custom_nodes()
    return plugins_of(folders, folders[0].parent / "user" if folders else None)


def registry_here() -> DeviceRegistry:
    """All devices, those of plugins included."""
    from multigpu.multigpu_core.devices import default_registry

    return default_registry(more_backends=device_backends(plugins_here()))


def strategies_here() -> Strategies:
    """All strategies, those of plugins included."""
    return strategies(plugins_here())


def formats_here() -> Formats:
    """All formats of model files, those of plugins included."""
    return file_formats(plugins_here())
