"""Host memory that this process may use: the machine's, or its control group's where that is smaller."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from multigpu.multigpu_core.devices.backends.base import MemoryReading

try:
    import psutil
except ImportError:  # ComfyUI brings it, a bare torch does not.
    psutil = None  # type: ignore[assignment]

CGROUP_ROOT = Path("/sys/fs/cgroup")
CGROUP_MEMBERSHIP = Path("/proc/self/cgroup")


def read_host_memory(root: Path = CGROUP_ROOT, membership: Path = CGROUP_MEMBERSHIP) -> MemoryReading:
    """Read what the host has; `root` and `membership` say where the kernel shows control groups."""
    readings = [_machine_memory(), *_cgroup_limits(root, membership)]
    total_bytes = min(reading.total_bytes for reading in readings)
    return MemoryReading(min(total_bytes, *(reading.free_bytes for reading in readings)), total_bytes)


def _machine_memory() -> MemoryReading:
    if psutil is not None:
        memory = psutil.virtual_memory()
        return MemoryReading(int(memory.available), int(memory.total))
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    return MemoryReading(os.sysconf("SC_AVPHYS_PAGES") * page_bytes, os.sysconf("SC_PHYS_PAGES") * page_bytes)


def _cgroup_limits(root: Path, membership: Path) -> Iterator[MemoryReading]:
    """One reading for every group above this process that has a limit, in version 2 and version 1 hierarchies."""
    for line in _lines(membership):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from _limits_upwards(root, path, "memory.max", "memory.current", "")
        elif "memory" in controllers.split(","):
            yield from _limits_upwards(
                root / "memory", path, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"
            )


def _limits_upwards(root: Path, path: str, limit: str, usage: str, prefix: str) -> Iterator[MemoryReading]:
    # Inside a container the path may be the host's: groups that cannot be seen are skipped, the root is its own.
    relative = PurePosixPath(path.lstrip("/"))
    for group in (root / relative, *(root / parent for parent in relative.parents)):
        limit_bytes, used_bytes = _number(group / limit), _number(group / usage)
        if limit_bytes is not None and used_bytes is not None:
            used_bytes -= _reclaimable_bytes(group, prefix)
            yield MemoryReading(max(0, limit_bytes - used_bytes), limit_bytes)


def _reclaimable_bytes(group: Path, prefix: str) -> int:
    """File pages that the kernel drops on demand: a model file that was read once must not count as used."""
    fields = dict(line.split(maxsplit=1) for line in _lines(group / "memory.stat") if " " in line)
    return sum(int(fields.get(f"{prefix}{kind}_file", "0")) for kind in ("inactive", "active"))


def _number(path: Path) -> int | None:
    """The file's number; None where there is no such file or it says ``max``."""
    text = next(iter(_lines(path)), "")
    return int(text) if text.isdecimal() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
