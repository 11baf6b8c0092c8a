"""What the conformance kit tries a loader's variants with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Loader = type[Any]
"""A loader's node class, V1 or V3."""


@dataclass(frozen=True)
class LoaderTrial:
    """A loader on which a plugin's variants are tried.

    `target` is its node id, as the plugin names it; `loader` its class, the real one or a stand-in; `inputs` what the
    class is given for one load. `compute` gets the loader's outputs and gives what they compute, which has to be the
    same on every device; without it the loaded weights are compared.
    """

    target: str
    loader: Loader
    inputs: Mapping[str, Any] = field(default_factory=dict)
    compute: Callable[[tuple[Any, ...]], Sequence[Tensor]] | None = None
