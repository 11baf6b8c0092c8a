"""How a machine tells the others its name and devices: as resources of its Ray node, which nobody has to start to read.

``multigpu/node2: 1000`` is a machine, ``multigpu/node2/cuda:0: 24576`` a device of it with its memory in MiB, and
``multigpu-home: 1`` says that the cluster was started there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from .protocol import ClusterError, Machine, RemoteDevice

PREFIX = "multigpu/"
HOME = "multigpu-home"
WORKERS = 1000
"""How many workers a machine may have at most: each takes one unit of its machine's resource."""
MIB = 1 << 20
FAMILIES = ("cpu", "cuda", "rocm", "hip", "xpu", "mps", "npu", "mlu", "directml", "privateuseone", "gpu")
_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}", re.IGNORECASE)


def checked_name(name: str) -> str:
    """A machine's name, in lower case.

    Raises:
        ClusterError: it cannot be one, or reads like a device.
    """
    if not _NAME.fullmatch(name) or name.lower() in FAMILIES:
        raise ClusterError(
            f"{name!r} cannot be a machine's name: use up to 31 letters, digits and hyphens, a letter first, and no "
            "name of a kind of devices. Choose one with --name."
        )
    return name.lower()


def announced(name: str, devices: Iterable[RemoteDevice], *, is_home: bool) -> dict[str, float]:
    """The resources that say so."""
    resources: dict[str, float] = {machine_resource(name): WORKERS}
    resources |= {f"{PREFIX}{name}/{each.name}": max(1, each.total_bytes // MIB) for each in devices}
    return resources | ({HOME: 1.0} if is_home else {})


def machine_resource(name: str) -> str:
    """The resource of which each worker on a machine takes a unit, so that it is started there."""
    return PREFIX + name


def read_announcement(address: str, resources: Mapping[str, float]) -> Machine | None:
    """The machine that a Ray node is; None for a node that is none of ours."""
    ours = [key.removeprefix(PREFIX) for key in resources if key.startswith(PREFIX)]
    names = [key for key in ours if "/" not in key]
    if len(names) != 1 or not _NAME.fullmatch(names[0]):
        return None
    devices = sorted(
        RemoteDevice(key.partition("/")[2], int(resources[PREFIX + key]) * MIB)
        for key in ours
        if key.startswith(f"{names[0]}/")
    )
    return Machine(names[0], address, tuple(devices), HOME in resources)
