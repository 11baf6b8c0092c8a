"""What plugins add to the command line: commands, devices, file formats, strategies and planners."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from multigpu.multigpu_core.plugins import PluginManager
from multigpu.multigpu_core.plugins.defaults import DefaultPlanner
from multigpu.multigpu_core.plugins.extensions import Command, commands, device_backends, file_formats
from multigpu.multigpu_core.plugins.strategies_of_plugins import strategies
from multigpu.multigpu_core.strategies.strategy import Strategies

from .plugins import own_custom_nodes, plugins_of

if TYPE_CHECKING:
    from multigpu.multigpu_core.allocation.inventory.of_file import Formats
    from multigpu.multigpu_core.devices import DeviceRegistry


class PluginsHere:
    """The plugins that can be found without ComfyUI, for one call of the command line: `ctx.ensure_object` makes it.

    They are loaded once, when a command first needs one of these properties.
    """

    @cached_property
    def manager(self) -> PluginManager:
        """The plugins themselves; a plan is asked of them as before a load in ComfyUI."""
        folders = own_custom_nodes()
        user_directory = folders[0].parent / "user" if folders else None
        return plugins_of(folders, user_directory, lambda settings: DefaultPlanner(settings.planner.staging))

    @cached_property
    def registry(self) -> DeviceRegistry:
        """All devices, those of plugins included."""
        from multigpu.multigpu_core.devices import default_registry

        return default_registry(more_backends=device_backends(self.manager))

    @cached_property
    def strategies(self) -> Strategies:
        """All strategies, those of plugins included."""
        return strategies(self.manager)

    @cached_property
    def formats(self) -> Formats:
        """All formats of model files, those of plugins included."""
        return file_formats(self.manager)


class CommandsWithPlugins(TyperGroup):
    """Our own commands, then those of plugins, which are imported only for help and for a name that is not ours."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *self._of_plugins(ctx)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if (own := super().get_command(ctx, cmd_name)) is not None:
            return own
        found = self._of_plugins(ctx).get(cmd_name)
        if found is None:
            return None
        app = typer.Typer()
        app.command(cmd_name)(found)
        return typer.main.get_command(app)

    def _of_plugins(self, ctx: Any) -> dict[str, Command]:
        return commands(ctx.ensure_object(PluginsHere).manager, self.commands)


class CommandWithStrategy(TyperCommand):
    """A command whose help lists what its option --strategy takes, plugins' strategies included."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        names = ", ".join(ctx.ensure_object(PluginsHere).strategies.names)
        for option in self.params:
            if option.name == "strategy" and isinstance(option, TyperOption):
                option.help = f"One of {names}."
        super().format_help(ctx, formatter)
