"""This machine's place in a cluster, for `multigpu doctor`."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version

from multigpu.multigpu_core.cluster.membership import ClusterFolder
from multigpu.multigpu_core.cluster.ray_process import is_running, port_in_use, why_not_here

from .snapshot import ClusterHere

SHARED_MEMORY = "/dev/shm"  # nosec B108: its size is read, and nothing is written there


def cluster_here(folder: ClusterFolder | None = None) -> ClusterHere | None:
    """None where it is in none."""
    folder = folder or ClusterFolder()
    member = folder.membership()
    if member is None:
        return None
    running = is_running(member.supervisor)
    return ClusterHere(
        member.name,
        member.is_home,
        why_not_here(),
        _ray_version(),
        str(folder.token_file),
        folder.token_is_private(),
        running,
        None if running else port_in_use(member.own_address, member.port),
        _shared_bytes(),
    )


def _ray_version() -> str:
    try:
        return version("ray")
    except PackageNotFoundError:
        return ""


def _shared_bytes() -> int | None:
    try:
        found = os.statvfs(SHARED_MEMORY)
    except (OSError, AttributeError):  # Windows has no statvfs
        return None
    return found.f_blocks * found.f_frsize
