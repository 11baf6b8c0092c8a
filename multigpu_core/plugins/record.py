"""One plugin's entry in the report."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

BUILT_IN = "built in"
"""The source of a plugin that comes with this extension."""


class PackState(str, Enum):
    """The state of a node pack after ComfyUI started, or what is known of it without ComfyUI."""

    LOADED = "loaded"
    ABSENT = "absent"
    DISABLED = "disabled"
    FAILED = "import failed"
    PRESENT = "present"
    """Its folder is there; whether it can be imported is known inside ComfyUI alone."""


@dataclass(frozen=True)
class TargetPack:
    """A node pack that a plugin is written for; the version is that of its pyproject.toml, where it has one."""

    name: str
    version: str = ""
    state: PackState = PackState.LOADED

    def __str__(self) -> str:
        return f"{self.name} {self.version}".rstrip()


@dataclass(frozen=True)
class PluginRecord:
    """One plugin that was found, whether or not it works.

    `source` says where it came from: ``built in``, a distribution's name, or a file. `why_not` is empty for a plugin
    that works, else one sentence; `traceback` is there where an exception was the reason. `nodes` are the ids that it
    registered, `taken` those that somebody else has, `absent` the loaders it knows that this ComfyUI does not have,
    `targets` the packs whose loaders it wraps, or would. `names_no_loaders` is true where its `multigpu_wrap_loader`
    returned nothing. `seconds` is what finding and registering it took.
    """

    name: str
    source: str
    version: str = ""
    enabled: bool = True
    why_not: str = ""
    traceback: str = ""
    nodes: tuple[str, ...] = ()
    taken: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    targets: tuple[TargetPack, ...] = ()
    seconds: float = 0.0
    names_no_loaders: bool = False

    @property
    def works(self) -> bool:
        return self.enabled and not self.why_not
