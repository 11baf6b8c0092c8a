"""`multigpu bench`: runs one of the benchmarks of a checkout."""

from __future__ import annotations

import subprocess
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

import multigpu

BENCHMARKS = Path(multigpu.__file__).parent / "benchmarks"


class Benchmark(str, Enum):
    STARTUP = "startup"
    PLAN = "plan"
    LOAD = "load"
    FORWARD = "forward"
    CLOCK = "clock"
    GPU = "gpu"
    GPU_COMFYUI = "gpu_comfyui"
    FUZZ = "fuzz"
    FAULTS = "faults"
    ATTACK_HTTP = "attack_http"
    SOAK = "soak"
    KEEP = "keep"
    PANEL = "panel"
    MUTATE = "mutate"


def bench(
    context: typer.Context,
    name: Annotated[Benchmark, typer.Argument(help="What to measure; benchmarks/README.md says what each prints.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of records.")] = False,
) -> None:
    """Measure, and print the figures beside what they must not exceed.

    Further options are the benchmark's own: `multigpu bench clock --quick`.
    Exit 0: none exceeds it; 1: one does; 2: invalid usage.
    """
    script = BENCHMARKS / f"{name.value}.py"
    if not script.is_file():
        typer.echo(
            "Benchmarks are in the source checkout, not in an installed package: clone the repository.", err=True
        )
        raise typer.Exit(2)
    options = [*(["--json"] if as_json else []), *context.args]
    raise typer.Exit(subprocess.run([sys.executable, str(script), *options], check=False).returncode)
