"""What ComfyUI runs before it imports torch: nothing, unless simulated accelerators are asked for.

`MULTIGPU_SIMULATE=2x8gb` gives ComfyUI two simulated accelerators with 8 GB each; without it this file only looks.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path


def _simulate() -> None:
    bootstrap_file = Path(__file__).resolve().parent / "_bootstrap.py"
    spec = importlib.util.spec_from_file_location("multigpu_bootstrap", bootstrap_file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{bootstrap_file} cannot be imported", path=str(bootstrap_file))
    bootstrap = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bootstrap)
    bootstrap.ensure_package()

    from multigpu.multigpu_core.simulation.environment import simulate_from_environment

    try:
        simulate_from_environment()
    except (RuntimeError, ValueError) as error:
        # ComfyUI logs a failing prestartup script and goes on, and then dies where it finds no card.
        sys.exit(f"MultiGPU: {error}")


if os.environ.get("MULTIGPU_SIMULATE"):
    _simulate()
