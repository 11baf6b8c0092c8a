"""What `multigpu cluster status` finds out: each machine is asked by a worker of ours, all at the same time."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from multigpu.multigpu_core.cluster.connection import Connection, Patience
from multigpu.multigpu_core.cluster.handshake import Difference, differences
from multigpu.multigpu_core.cluster.link import MeasuredLink, measure_link
from multigpu.multigpu_core.cluster.operations import versions_here
from multigpu.multigpu_core.cluster.protocol import Activity, ClusterError, Engine, Machine


@dataclass(frozen=True)
class DeviceNow:
    """A device with its memory as it is now."""

    name: str
    title: str
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class MachineStatus:
    """One machine. `fault` says why it could not be asked; then only what was known before is here."""

    machine: Machine
    devices: tuple[DeviceNow, ...] = ()
    link: MeasuredLink | None = None
    versions: Mapping[str, str] | None = None
    different: tuple[Difference, ...] = ()
    activities: tuple[Activity, ...] = ()
    fault: str = ""
    is_connected: bool = True

    @property
    def is_well(self) -> bool:
        """Whether work can be done there with home's results."""
        return not self.fault and not any(each.is_deciding for each in self.different)


def cluster_status(engine: Engine, known: tuple[Machine, ...], patience: Patience | None = None) -> list[MachineStatus]:
    """All machines, and those of the `known` ones that are not there now.

    Raises:
        ClusterError: the cluster does not answer.
    """
    machines = engine.machines()
    activities = engine.activities()
    here = {machine.name for machine in machines}
    with ThreadPoolExecutor(max(1, len(machines))) as threads:
        asked = list(threads.map(partial(_asked, engine, activities, patience), machines))
    gone = [machine for machine in known if machine.name not in here]
    return asked + [MachineStatus(machine, fault="not connected", is_connected=False) for machine in gone]


def _asked(
    engine: Engine, activities: tuple[Activity, ...], patience: Patience | None, machine: Machine
) -> MachineStatus:
    at_work = tuple(activity for activity in activities if activity.machine == machine.name)
    try:
        connection = Connection(engine.start(machine.name, "cpu"), patience)
        try:
            described = connection.call("describe", with_devices=True)
            link = None if machine.is_home else measure_link(connection)
        finally:
            connection.close()
    except ClusterError as error:
        return MachineStatus(machine, activities=at_work, fault=str(error))
    versions = described["versions"]
    return MachineStatus(
        machine,
        tuple(DeviceNow(**device) for device in described["devices"]),
        link,
        versions,
        tuple(differences(versions_here(), versions)),
        at_work,
    )


def status_json(status: MachineStatus) -> dict[str, Any]:
    """One machine for other programs; sizes in bytes, times in seconds."""
    machine, link = status.machine, status.link
    return {
        "name": machine.name,
        "address": machine.address,
        "is_home": machine.is_home,
        "fault": status.fault or None,
        "devices": [
            {
                "name": f"{machine.name}/{each.name}",
                "title": each.title,
                "total_bytes": each.total_bytes,
                "free_bytes": each.free_bytes,
            }
            for each in status.devices
        ],
        "round_trip_seconds": link.round_trip_seconds if link else None,
        "there_bytes_per_second": link.there_bytes_per_second if link else None,
        "back_bytes_per_second": link.back_bytes_per_second if link else None,
        "versions": dict(status.versions or {}),
        "different_versions": [each.package for each in status.different],
        "running": [
            {"device": each.device, "operation": each.operation, "holds": list(each.holds)}
            for each in status.activities
        ],
    }
