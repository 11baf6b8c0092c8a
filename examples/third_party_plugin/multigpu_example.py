"""MultiGPU variants of the loaders of example."""

from __future__ import annotations

from collections.abc import Iterable

from multigpu import hookimpl
from multigpu.api import OwnNode, WrappedLoader, split_and_device
from pydantic import BaseModel

multigpu_api = 1  # the version of the hooks that this plugin is written for
# multigpu_pack = "ComfyUI-MyPack"  # the pack whose loaders these are: the report then says what became of it

# The ids of loader nodes as ComfyUI knows them. One that is not installed gets no variants, and the report says so.
LOADERS = ["MyModelLoader"]


class Options(BaseModel):
    """What [integrations.example] in plugins.toml may hold."""

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
