"""The machines of a cluster as a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.table import Table

from multigpu.multigpu_core.logs import printable

from .status import MachineStatus

GIB = 1024**3
MB = 1e6


def print_status(console: Console, statuses: Iterable[MachineStatus]) -> None:
    """Print one row for each device, one for a machine that could not be asked, and what else there is to say."""
    statuses = list(statuses)
    table = Table(title="Machines")
    table.add_column("Device", no_wrap=True)
    table.add_column("Name")
    for heading in ("Total GiB", "Free GiB", "There MB/s", "Back MB/s", "Round trip ms"):
        table.add_column(heading, justify="right")
    for status in statuses:
        for row in _rows(status):
            table.add_row(*map(printable, row))
    console.print(table)
    for status in statuses:
        for line in _remarks(status):
            console.print(printable(line), markup=False, highlight=False)


def _rows(status: MachineStatus) -> Iterator[tuple[str, ...]]:
    name = status.machine.name
    if status.fault:
        yield (name, status.fault, "", "", "", "", "")
    link = status.link
    speeds = ("", "", "")
    if link is not None:
        there, back = link.there_bytes_per_second / MB, link.back_bytes_per_second / MB
        speeds = (f"{there:.0f}", f"{back:.0f}", f"{link.round_trip_seconds * 1e3:.1f}")
    for device in status.devices:
        memory = (f"{device.total_bytes / GIB:.2f}", f"{device.free_bytes / GIB:.2f}")
        yield (f"{name}/{device.name}", device.title, *memory, *speeds)
        speeds = ("", "", "")


def _remarks(status: MachineStatus) -> Iterator[str]:
    name = status.machine.name
    for each in status.different:
        consequence = "nothing of home's runs there: install home's version" if each.is_deciding else "a note only"
        yield f"{name}: {each} ({consequence})"
    for activity in status.activities:
        holds = ", ".join(activity.holds) or "no model"
        yield f"{name}/{activity.device}: {activity.operation or 'waiting'}, holds {holds}"
