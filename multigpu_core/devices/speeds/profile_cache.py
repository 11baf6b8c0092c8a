"""A machine's measured profile: measured once, and kept in a file between runs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import structlog
import torch

from multigpu.multigpu_core.bounded_json import parse_json
from multigpu.multigpu_core.devices.registry import DeviceRegistry
from multigpu.multigpu_core.files import read_bounded, write_atomically

from .measure import Measured, measure_profile
from .profile import HardwareProfile, LinkSpeed
from .published import published_profile

log = structlog.get_logger("multigpu")
FILE_VARIABLE = "MULTIGPU_PROFILE"
MAX_BYTES = 1024 * 1024
"""Far above the profile of a machine with a hundred devices."""
_SHOWN_CHARACTERS = 300


class ProfileError(RuntimeError):
    """This machine cannot be measured, or what was measured not be kept; the message says what to do."""


def profile_file(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where the profile is kept: the file that `MULTIGPU_PROFILE` names, else one in the user's cache folder.

    Raises:
        ProfileError: there is no such folder.
    """
    if environ.get(FILE_VARIABLE):
        return Path(environ[FILE_VARIABLE])
    variable, below_home = {
        "win32": ("LOCALAPPDATA", ("AppData", "Local")),
        "darwin": ("", ("Library", "Caches")),
    }.get(sys.platform, ("XDG_CACHE_HOME", (".cache",)))
    folder = Path(environ[variable]) if environ.get(variable) else _home().joinpath(*below_home)
    return folder / "multigpu" / "profile.json"


def profile_changed_ns(file: Path | None = None) -> int | None:
    """When the kept profile was last written, in nanoseconds; None where there is none or it cannot be told."""
    try:
        return (file or profile_file()).stat().st_mtime_ns
    except (OSError, ValueError, ProfileError):
        return None


def known_profile(registry: DeviceRegistry, file: Path | None = None) -> HardwareProfile:
    """The profile measured on this machine; what was not measured is as published for its kind of devices."""
    published, measured = published_profile(registry), load_profile(registry, file)
    if measured is None:
        return published
    links = {**published.links, **measured.links}
    return HardwareProfile(links, {**published.flops_per_second, **measured.flops_per_second}, is_measured=True)


def profile_anew(registry: DeviceRegistry, progress: Callable[[Measured], None]) -> HardwareProfile:
    """Measure this machine, in under 20 seconds, and keep what was found; what `progress` raises ends it.

    Raises:
        ProfileError: it is a simulated machine, or the file cannot be written.
    """
    if os.environ.get("MULTIGPU_SIMULATE"):
        raise ProfileError("Simulated accelerators have no speed to measure: unset MULTIGPU_SIMULATE.")
    found = measure_profile(registry, progress=progress)
    try:
        save_profile(found, registry)
    except (OSError, ValueError) as error:
        raise ProfileError(f"{error}: set MULTIGPU_PROFILE to a writable file.") from None
    return found


def load_profile(registry: DeviceRegistry, file: Path | None = None) -> HardwareProfile | None:
    """Return the kept profile; None where there is none, it is of other devices or another torch, or it is unreadable.

    A file that cannot be read counts as none, whatever the reason, and is logged once at each call.
    """
    try:
        file = file or profile_file()
        kept = parse_json(read_bounded(file, MAX_BYTES))
        profile = _profile(kept["profile"])
        is_of_this_machine = kept["machine"] == machine_identity(registry)
    except FileNotFoundError:
        return None
    except Exception as error:  # A cache may be damaged in any way, and measuring again is always possible.
        reason = f"{type(error).__name__}: {error}"[:_SHOWN_CHARACTERS]
        message = f"{file or 'The kept profile'} cannot be read ({reason}): run `multigpu profile` to measure again"
        log.warning("profile_unreadable", message=message)
        return None
    if not is_of_this_machine:
        message = f"{file} is for other devices or another torch: run `multigpu profile` for this machine's speeds"
        log.info("profile_outdated", message=message)
        return None
    return profile


def save_profile(profile: HardwareProfile, registry: DeviceRegistry, file: Path | None = None) -> Path:
    """Keep a profile for this machine; returns the file.

    Raises:
        OSError, ProfileError: it cannot be written; a file that was there is unchanged.
    """
    file = file or profile_file()
    links = {
        f"{source} > {target}": [link.bytes_per_second, link.pageable_bytes_per_second, link.latency_seconds]
        for (source, target), link in profile.links.items()
    }
    rates = {device: dict(by_dtype) for device, by_dtype in profile.flops_per_second.items()}
    kept = {"machine": machine_identity(registry), "profile": {"links": links, "flops_per_second": rates}}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps(kept, indent=1) + "\n")
    return file


def machine_identity(registry: DeviceRegistry) -> dict[str, Any]:
    """What a profile is of: the devices in order, with their names and memory, and torch with its driver interface."""
    names = [name for name in registry.names() if name != "cpu"]
    devices = [[name, registry.marketing_name(name), registry.total_bytes(name)] for name in names]
    return {"devices": devices, "torch": torch.__version__, "cuda": torch.version.cuda, "hip": torch.version.hip}


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:
        message = f"There is no home folder ({error}): set {FILE_VARIABLE} to the file that keeps the profile."
        raise ProfileError(message) from None


def _profile(kept: dict[str, Any]) -> HardwareProfile:
    links = {}
    for pair, figures in kept["links"].items():
        source, _, target = pair.partition(" > ")
        links[source, target] = LinkSpeed(*_positive(figures))
    rates = {
        device: dict(zip(by_dtype, _positive(by_dtype.values()), strict=True))
        for device, by_dtype in kept["flops_per_second"].items()
    }
    return HardwareProfile(links, rates, is_measured=True)


def _positive(figures: Any) -> list[float]:
    numbers = [float(figure) for figure in figures]
    if not all(0 < number < float("inf") for number in numbers):
        raise ValueError(f"{numbers} are no speeds")
    return numbers
