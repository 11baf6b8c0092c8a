"""Reads plugins.toml: which integrations are on."""

from __future__ import annotations

import sys
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, StrictBool

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class Configuration(BaseModel):
    """The contents of plugins.toml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    integrations: dict[str, StrictBool] = Field(default_factory=dict)


def read_configuration(path: Path) -> Configuration:
    """The configuration in a file.

    Raises:
        tomllib.TOMLDecodeError, pydantic.ValidationError: the file is not TOML, or holds what no setting is.
    """
    return Configuration.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
