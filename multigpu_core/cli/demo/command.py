"""`multigpu demo`: one model on one device and split over all of them, in a real ComfyUI, and the same picture."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from multigpu.multigpu_core.cli.in_words import in_words

DEFAULT_DIRECTORY = Path(".cache/demo")
DEFAULT_STEPS = 4


def demo(
    directory: Annotated[Path, typer.Option(help="Folder for models, images and the log.")] = DEFAULT_DIRECTORY,
    steps: Annotated[int, typer.Option(min=1, help="Sampling steps.")] = DEFAULT_STEPS,
) -> None:
    """Split a tiny model over this machine's devices in a real ComfyUI and compare the picture with one device's.

    Exit 0: equal, pixel for pixel; 1: they differ, or the demo failed; 2: invalid usage.
    """
    # Needs packages of ComfyUI's own, which the other commands do without.
    from .report import print_report
    from .run import DEMO_ERRORS, run_demo

    signal.signal(signal.SIGTERM, _exit_in_order)
    console = Console(highlight=False)
    complaints = Console(stderr=True, style="red", soft_wrap=True, markup=False, highlight=False)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        complaints.print(f"error: {in_words(error)} Choose a writable folder with --directory.")
        raise typer.Exit(2) from None
    try:
        result = run_demo(directory.resolve(), steps, console)
    except (*DEMO_ERRORS, OSError) as error:
        complaints.print(f"error: {in_words(error)}")
        raise typer.Exit(1) from error
    print_report(result, console)
    raise typer.Exit(0 if result.differing_pixels == 0 else 1)


def _exit_in_order(signal_number: int, frame: object) -> NoReturn:
    # By default SIGTERM ends Python on the spot, and nothing would stop the server.
    sys.exit(128 + signal_number)
