"""Whether a worker's versions agree with home's: a result may depend on some of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

DECIDING = ("multigpu", "torch")
"""Another one of these gives other numbers, or does not work at all."""


@dataclass(frozen=True)
class Difference:
    """A package of which home and a machine have different versions; an empty one is not installed."""

    package: str
    at_home: str
    there: str

    @property
    def is_deciding(self) -> bool:
        """Whether nothing that has to be the same as at home may run there."""
        return self.package in DECIDING or not self.there or _series(self.at_home) != _series(self.there)

    def __str__(self) -> str:
        return f"{self.package} is {self.there or 'not installed'} there and {self.at_home} at home"


def differences(at_home: Mapping[str, str], there: Mapping[str, str]) -> Iterator[Difference]:
    """What differs; what home does not have either is no difference. A build's own suffix (``+cu128``) is none."""
    for package, version in at_home.items():
        other = there.get(package, "")
        if version and _plain(version) != _plain(other):
            yield Difference(package, version, other)


def _plain(version: str) -> str:
    return version.partition("+")[0]


def _series(version: str) -> list[str]:
    """Its first two numbers: between them ``3.11.7`` and ``3.11.9`` are alike."""
    return _plain(version).split(".")[:2]
