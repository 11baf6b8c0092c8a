"""`multigpu new-integration`: write a working plugin package to start from."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

import typer

from multigpu.multigpu_core.cli.in_words import in_words
from multigpu.multigpu_core.files import write_atomically
from multigpu.multigpu_core.plugins import PLUGIN_API
from multigpu.multigpu_core.plugins.discovery import built_in_names

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
from multigpu.api import OwnNode, WrappedLoader, split_and_device
from pydantic import BaseModel

multigpu_api = {api}  # the version of the hooks that this plugin is written for
# multigpu_pack = "ComfyUI-MyPack"  # the pack whose loaders these are: the report then says what became of it

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
CONFTEST = '''\
"""Brings the fixtures simulated_comfyui and simulated_machine."""

pytest_plugins = ["multigpu.testing"]
'''
TEST = '''\
"""The plugin keeps what MultiGPU's users count on."""

from __future__ import annotations

from typing import Any

import multigpu_{name}
from multigpu.testing import ComfyUI, LoaderTrial, check_loader, check_plugin


class MyModelLoader:
    """A stand-in for the pack's own loader: the same inputs, and a result of the same kind, only small."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {{"required": {{"name": (["small"],)}}}}

    def load(self, name: str) -> tuple[Any]:
        import comfy.model_management as mm
        import torch
        from comfy.model_patcher import ModelPatcher

        def block() -> torch.nn.Module:  # of several layers, as a real one: single layers are not split
            return torch.nn.Sequential(torch.nn.LayerNorm(8), torch.nn.Linear(8, 8))

        model = torch.nn.Module()
        model.blocks = torch.nn.ModuleList(block() for _ in range(4))
        return (ModelPatcher(model, mm.get_torch_device(), mm.unet_offload_device()),)


def test_multigpu_accepts_the_plugin() -> None:
    check_plugin(multigpu_{name})


def test_every_variant_keeps_its_promises(simulated_comfyui: ComfyUI) -> None:
    trial = LoaderTrial("MyModelLoader", MyModelLoader, {{"name": "small"}})
    check_loader(multigpu_{name}, trial, simulated_comfyui)
'''


def new_integration(
    name: Annotated[str, typer.Argument(help="The plugin's name: letters, digits and underscores, as in my_pack.")],
    directory: Annotated[Path | None, typer.Option(help="Where to write it; by default a folder here.")] = None,
) -> None:
    """Write a plugin package: install it into ComfyUI's Python, restart ComfyUI, and its variants are there.

    Exit 0: written; 2: invalid usage.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        typer.echo(f"{name!r} is not a plugin name: use a-z, digits and underscores, as in my_pack.", err=True)
        raise typer.Exit(2)
    if name in built_in_names():
        typer.echo(f"{name!r} is a plugin of MultiGPU's own: choose another name.", err=True)
        raise typer.Exit(2)
    folder = directory or Path(f"multigpu-{name.replace('_', '-')}")
    if folder.is_dir() and any(folder.iterdir()):
        typer.echo(f"{folder} already exists and is not empty: choose another with --directory.", err=True)
        raise typer.Exit(2)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in package_files(name).items():
            write_atomically(folder / file, text)
    except OSError as error:
        typer.echo(f"error: {in_words(error)} Choose a writable folder with --directory.", err=True)
        raise typer.Exit(2) from None
    # A bare name is a project in the package index to pip, not a folder.
    path = os.path.join(".", folder)
    typer.echo(f"Written to {folder}. Put your loaders' node ids into multigpu_{name}.py, then: pip install {path}")


def package_files(name: str) -> dict[str, str]:
    """The files of a plugin package, by name."""
    return {
        "pyproject.toml": PYPROJECT.format(name=name, dashed=name.replace("_", "-")),
        f"multigpu_{name}.py": PLUGIN.format(name=name, api=PLUGIN_API),
        "conftest.py": CONFTEST,
        f"test_multigpu_{name}.py": TEST.format(name=name),
    }
