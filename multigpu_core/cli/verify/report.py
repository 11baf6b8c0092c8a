"""The numbers of two runs side by side, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

MIB = 1024**2


def is_equal(found: Mapping[str, Any]) -> bool:
    """Whether a comparison, as `multigpu_core.comfy.trials.jobs.verify` gives it, found no difference."""
    return bool(found["difference"]["differing"] == 0)


def print_report(name: str, found: Mapping[str, Any], console: Console) -> None:
    """Tells both runs in a table, the split's string, and whether their outputs are one."""

    def say(line: str, style: str = "") -> None:
        console.print(line, style=style, soft_wrap=True, markup=False, highlight=False)

    if found["why_not_whole"]:
        say(f"Not compared with one device: {found['why_not_whole']}.", "yellow")
        say("The reference is another split: every block on cpu, copied when it is needed.", "yellow")
    console.print(_table(name, found))
    say(f"Split: {found['split']['expert_string']}")
    ratio = found["split"]["step_seconds"] / found["reference"]["step_seconds"]
    say(f"A step takes {ratio:.2f} times as long as that of the reference.")
    difference = found["difference"]
    if is_equal(found):
        say(f"Equal bit for bit: all {difference['numbers']:,} numbers of the output.", "bold green")
        return
    how_much = f"by {difference['largest']:.3g} at most, {difference['mean']:.3g} on average"
    say(f"{difference['differing']:,} of {difference['numbers']:,} numbers differ: {how_much}.", "bold red")
    if found["reference_repeats"]:
        say("The reference reproduces its own output, so the split causes the difference: please report it.")
    else:
        say("The reference does not reproduce its own output either: its device is not deterministic.")


def _table(name: str, found: Mapping[str, Any]) -> Table:
    runs = (found["reference"], found["split"])
    table = Table(title=f"{name}, computed on {found['compute_device']}", title_justify="left")
    table.add_column("")
    for run in runs:
        table.add_column(run["what"], justify="right")
    table.add_row("Seconds per step", *(f"{run['step_seconds']:.3g}" for run in runs))
    table.add_row(f"Peak of {found['compute_device']}", *(_bytes(run["peak_bytes"]) for run in runs))
    devices = dict.fromkeys(device for run in runs for device in run["bytes_by_device"])
    for device in devices:
        table.add_row(f"Weights on {device}", *(_bytes(run["bytes_by_device"].get(device, 0)) for run in runs))
    return table


def _bytes(size: int | None) -> str:
    return f"{size / MIB:,.1f} MiB" if size is not None else "not told"
