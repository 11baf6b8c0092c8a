"""`multigpu new-integration`: writes a plugin package that works as it is, to begin from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from multigpu.multigpu_core.plugins import PLUGIN_API

PYPROJECT = """\
[build-system]
requires = ["setuptools>=64"]
build-backend = "setuptools.build_meta"

[project]
name = "multigpu-{dashed}"
version = "0.1.0"
description = "MultiGPU variants of the loaders of {name}"
requires-python = ">=3.10"

[project.entry-points."multigpu.integrations"]
{name} = "multigpu_{name}"

[tool.setuptools]
py-modules = ["multigpu_{name}"]
"""
PLUGIN = '''\
"""MultiGPU variants of the loaders of {name}."""

from __future__ import annotations

from collections.abc import Iterable

from multigpu import hookimpl
from multigpu.hookspecs import OwnNode, WrappedLoader, split_and_device
from pydantic import BaseModel

multigpu_api = {api}  # the version of the hooks that this plugin is written for

# The ids of loader nodes as ComfyUI knows them. One that is not installed gets no variants, and the report says so.
LOADERS = ["MyModelLoader"]


class Options(BaseModel):
    """What [integrations.{name}] in plugins.toml may hold."""

    more_loaders: list[str] = []


class Chosen:
    """The options in force."""

    options = Options()


@hookimpl
def multigpu_startup(options: Options) -> None:
    Chosen.options = options


@hookimpl
def multigpu_wrap_loader() -> Iterable[WrappedLoader | OwnNode]:
    for target in [*LOADERS, *Chosen.options.more_loaders]:
        yield WrappedLoader(target, split_and_device(target))
'''
TEST = '''\
"""The plugin says what it wraps, and MultiGPU accepts it."""

from __future__ import annotations

import multigpu_{name}
from multigpu import hookspecs
from multigpu.multigpu_core.plugins import PluginManager


def test_multigpu_accepts_the_plugin() -> None:
    plugins = PluginManager(hookspecs)
    plugins.register(multigpu_{name}, "{name}")
    assert plugins.records["{name}"].works, plugins.records["{name}"].why_not


def test_every_loader_gets_a_device_and_a_split() -> None:
    for loader in multigpu_{name}.multigpu_wrap_loader():
        assert [variant.node_id for variant in loader.variants] == [
            f"{{loader.target}}MultiGPU",
            f"{{loader.target}}DisTorch2MultiGPU",
        ]
'''


def new_integration(
    name: Annotated[str, typer.Argument(help="The plugin's name: letters, digits and underscores, as in my_pack.")],
    directory: Annotated[Path | None, typer.Option(help="Where to write it; by default a folder here.")] = None,
) -> None:
    """Write a plugin package: install it into ComfyUI's Python, restart ComfyUI, and its variants are there."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        typer.echo(f"{name!r} is no plugin name: use small letters, digits and underscores, as in my_pack.", err=True)
        raise typer.Exit(2)
    folder = directory or Path(f"multigpu-{name.replace('_', '-')}")
    if folder.exists() and any(folder.iterdir()):
        typer.echo(f"{folder} is there already and not empty: name another with --directory.", err=True)
        raise typer.Exit(2)
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in package_files(name).items():
        (folder / file).write_text(text, encoding="utf-8")
    typer.echo(f"Written to {folder}. Put your loaders' node ids into multigpu_{name}.py, then: pip install {folder}")


def package_files(name: str) -> dict[str, str]:
    """The files of a plugin package, by name."""
    return {
        "pyproject.toml": PYPROJECT.format(name=name, dashed=name.replace("_", "-")),
        f"multigpu_{name}.py": PLUGIN.format(name=name, api=PLUGIN_API),
        f"test_multigpu_{name}.py": TEST.format(name=name),
    }
