"""Our part of ComfyUI's start-up, beyond importing torch and ComfyUI itself.

python benchmarks/startup.py [--json]
"""

from __future__ import annotations

from collections.abc import Iterator

from inside_comfyui import enter_comfyui
from records import Record, main


def measure() -> Iterator[Record]:
    yield Record("starting the framework, imports included", enter_comfyui().start(), "s", bound=0.3)


if __name__ == "__main__":
    main("Start-up", measure)
