"""Packages of vendors that bring a backend to torch when they are imported."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class VendorPackage:
    """A package after the attempt to import it: its `module`, the `error` it raised, or neither if not installed."""

    name: str
    module: Any = None
    error: Exception | None = None

    def raise_if_broken(self) -> None:
        """Raises ImportError if the package is installed and failed to import."""
        if self.error is not None:
            raise ImportError(f"{self.name} is installed but cannot be imported: {self.error}") from self.error


def import_vendor_package(name: str) -> VendorPackage:
    """Import a package; a broken one is remembered instead of raised, since it must not take other devices along."""
    try:
        if importlib.util.find_spec(name) is None:
            return VendorPackage(name)
        return VendorPackage(name, module=importlib.import_module(name))
    except Exception as error:  # A vendor's import can fail in any way: drivers, versions, missing libraries.
        return VendorPackage(name, error=error)
