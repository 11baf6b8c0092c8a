"""The core's own sections of plugins.toml: what each key takes, and what it is where no file says so."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class CoreSettings(BaseModel):
    """Base of the sections. Values are taken as they are written: no text is read as a number."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class PlannerSettings(CoreSettings):
    """[planner]"""

    strategy: str = "interleave"
    """What split nodes offer first. Plugins add strategies, so the name is checked when they are loaded."""
    staging: Literal["auto", "small", "large"] | Annotated[int, Field(ge=0)] = "auto"
    """Memory of the compute device to stream through: the least that costs no time, the least, much, or bytes."""


class MemorySettings(CoreSettings):
    """[memory]"""

    page_locked_fraction: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.5
    """The share of the host's memory that may be pinned for streaming; 0 switches that off."""
    retry_load: bool = True
    """Whether a load by auto or virtual VRAM that runs out of memory is retried once, with more offloaded."""
    sampling_retries: Annotated[int, Field(ge=0, le=2)] = 2
    """How often to retry a sampling of a split model that runs out of memory; 0 switches that off."""
    host_threshold: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.85
    """The used share of host memory above which an idle ComfyUI clears its cached outputs; 1 switches that off."""
    host_hysteresis: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.05
    """How far below the threshold use must fall before outputs are cleared again."""
    kept_idle_minutes: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 60
    """Minutes without use by a prompt after which a kept model is unloaded; 0 for never."""


class StartupSettings(CoreSettings):
    """[startup]"""

    plugin_seconds: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = 30
    """A plugin whose import, start-up hook or list of loaders takes longer is not used; 0 waits without limit."""


class LoggingSettings(CoreSettings):
    """[logging]"""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe messages that are shown."""
    file: str = ""
    """A file for JSON lines, relative to ComfyUI's user directory; none where it is empty."""
    file_max_bytes: Annotated[int, Field(ge=10_000)] = 10_000_000
    """The size in bytes at which a new file is begun."""
    file_backups: Annotated[int, Field(ge=0, le=100)] = 3
    """How many full files are kept."""


SECTIONS: dict[str, type[CoreSettings]] = {
    "planner": PlannerSettings,
    "memory": MemorySettings,
    "startup": StartupSettings,
    "logging": LoggingSettings,
}

NODES = "nodes"
REDIRECT = "redirect_first_device"
OPEN_SECTIONS: dict[str, tuple[type, str]] = {
    NODES: (str, 'a device, as in NODE_ID = "cuda:1"'),
    REDIRECT: (bool, "true or false"),
}
"""Sections whose keys are names of nodes and packs: what a value is, and how to write one."""
