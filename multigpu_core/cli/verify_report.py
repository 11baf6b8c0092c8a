"""The numbers of two runs side by side, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

MIB = 1024**2


def is_equal(found: Mapping[str, Any]) -> bool:
    """Whether a comparison, as `multigpu_core.comfy.jobs.verify` gives it, found no difference."""
    return bool(found["difference"]["differing"] == 0)


def print_report(name: str, found: Mapping[str, Any], console: Console) -> None:
    """Tells both runs in a table, the split's string, and whether their outputs are one."""
    reference, split = found["reference"], found["split"]
    if found["why_not_whole"]:
        why = f"Not compared with one device: {found['why_not_whole']}. The reference is another split: every block on cpu."
        console.print(why, style="yellow", markup=False)
    console.print(_table(name, found))
    console.print(f"Split: {split['expert_string']}", soft_wrap=True, markup=False, highlight=False)
    ratio = split["step_seconds"] / reference["step_seconds"]
    console.print(f"A step takes {ratio:.2f} times as long as that of the reference.", highlight=False)
    difference = found["difference"]
    if is_equal(found):
        verdict = f"Equal bit for bit: all {difference['numbers']:,} numbers of the output."
        console.print(verdict, style="bold green", highlight=False)
        return
    console.print(
        f"{difference['differing']:,} of {difference['numbers']:,} numbers differ: "
        f"by {difference['largest']:.3g} at most, {difference['mean']:.3g} on average.",
        style="bold red", highlight=False,
    )  # fmt: skip
    if found["reference_repeats"]:
        console.print("The reference gives its own output again, so the difference is the split's: please report it.")
    else:
        console.print("The reference does not give its own output again either: its device computes it anew each time.")


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
