"""Our part of ComfyUI's start-up, beyond importing torch and ComfyUI itself.

python benchmarks/startup.py [--json]

All packs that integrations are for are stand-ins, or the real ones in the folder that MULTIGPU_PACKS names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from inside_comfyui import enter_comfyui
from records import Record, main

STAND_INS = Path(__file__).parent.parent / "tests" / "comfyui" / "packs"


def measure() -> Iterator[Record]:
    inside = enter_comfyui()
    yield Record("starting the framework, imports included", inside.start(), "s", bound=0.3)
    inside.stop()
    folder = Path(os.environ.get("MULTIGPU_PACKS") or STAND_INS)
    loaded = inside.load_packs(sorted(each for each in folder.iterdir() if each.is_dir()))
    # Everything is registered once more, so this is more than the packs add.
    yield Record(f"registering everything, with {loaded} packs present", inside.start(), "s", bound=0.5)
    yield Record("our nodes then", len(inside.framework.NODE_CLASS_MAPPINGS), "nodes")


if __name__ == "__main__":
    main("Start-up", measure)
