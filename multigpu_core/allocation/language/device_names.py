"""Resolve a device name as typed to the canonical name of an available device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from multigpu.multigpu_core.devices import DeviceError
from multigpu.multigpu_core.devices.naming import nearest_name, read_spelling

from .source_span import SourceSpan

MAX_CHARACTERS = 100
"""More than any device's name has."""

Resolver = Callable[[str], str]
"""Maps a device as typed to its canonical name or raises DeviceError: `DeviceRegistry.resolve`."""

KnownDevices = Sequence[str] | Resolver
"""What the language needs to know about the machine: a resolver, or just the canonical names."""


def resolve(span: SourceSpan, known: KnownDevices) -> str:
    """The canonical name of the device that `span` names; raises AllocationError where there is none."""
    size = span.end - span.start
    if size > MAX_CHARACTERS:
        raise span.error(f"A device name cannot have {size} characters.", "A device is like cuda:0 or cpu")
    resolver = known if callable(known) else resolver_of(known)
    try:
        return resolver(span.text)
    except DeviceError as error:
        there_are = f"Available devices: {', '.join(error.available) or 'none'}."
        reason = " ".join([f"There is no device '{span.text}'.", there_are, *error.reasons])
        raise span.error(reason, f"Did you mean '{error.nearest}'?" if error.nearest else "") from error


def resolver_of(names: Sequence[str]) -> Resolver:
    """A resolver over canonical names alone, where no registry is at hand."""

    def resolver(typed: str) -> str:
        spelling = read_spelling(typed)
        if spelling is not None:
            indexed = f"{spelling.family}:{spelling.position}"
            if indexed in names:
                return indexed
            if spelling.family in names and spelling.position == 0:
                return spelling.family
        raise DeviceError(typed, tuple(names), nearest_name(typed, names))

    return resolver
