"""What every benchmark prints: a table for people, or a list of records as JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import NoReturn

import torch
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Record:
    """One figure. `bound` is what it must not exceed, in the same unit, where there is such a promise."""

    name: str
    value: float
    unit: str
    bound: float | None = None

    @property
    def ratio(self) -> float | None:
        """The figure over its bound: at most 1 where the promise is kept."""
        if self.bound is None:
            return None
        if self.bound == 0:
            return 0.0 if self.value <= 0 else float("inf")
        return self.value / self.bound


def main(
    title: str, measure: Callable[[], Iterable[Record]], quick: Callable[[], Iterable[Record]] | None = None
) -> None:
    """Measure and print; the exit status says whether every promise is kept.

    `quick` measures the same with few repetitions, where that takes less time: its times say little, its bytes all.
    """
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--json", action="store_true", help="print a list of records instead of a table")
    if quick is not None:
        parser.add_argument("--quick", action="store_true", help="few repetitions: shows that it runs")
    options = parser.parse_args()
    chosen = quick if quick is not None and options.quick else measure
    report(title, list(chosen()), options.json)


def report(title: str, records: Sequence[Record], as_json: bool, keep: Path | None = None) -> NoReturn:
    """Print, and keep in a file where one is named; the exit status says whether every promise is kept."""
    if keep is not None:
        keep_in(keep, title, records)
    if as_json:
        Console().print_json(data=[_as_json(record) for record in records])
    else:
        _print_table(title, records)
    raise SystemExit(any(record.ratio is not None and record.ratio > 1 for record in records))


def keep_in(path: Path, title: str, records: Iterable[Record]) -> None:
    """Write the records, with machine and date, to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {**machine(), "title": title, "records": [_as_json(record) for record in records]}
    path.write_text(json.dumps(kept, indent=1) + "\n")


def machine() -> dict[str, object]:
    """What figures were measured on, and when."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    return {"date": date.today().isoformat(), "processor": platform.machine(), "cores": os.cpu_count(), **versions}


def _as_json(record: Record) -> dict[str, object]:
    return {**asdict(record), "ratio": record.ratio}


def _print_table(title: str, records: Iterable[Record]) -> None:
    table = Table("what", "figure", "at most", "ratio", title=title, title_justify="left")
    for record in records:
        bound = "" if record.bound is None else f"{record.bound:,.6g} {record.unit}"
        ratio = "" if record.ratio is None else f"{record.ratio:.2f}"
        table.add_row(record.name, f"{record.value:,.6g} {record.unit}", bound, ratio)
    Console().print(table)
