"""A command: `multigpu greet` greets somebody."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated

import typer

from multigpu import hookimpl


def greet(name: Annotated[str, typer.Option(help="Whom to greet.")] = "world") -> None:
    """Greet somebody."""
    typer.echo(f"Hello, {name}.")


@hookimpl
def multigpu_commands() -> Iterable[Callable[..., None]]:
    return [greet]
