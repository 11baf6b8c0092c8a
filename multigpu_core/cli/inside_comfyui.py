"""A script for a new process: import ComfyUI without its server, start our framework in it, and run a job.

``python inside_comfyui.py REQUEST RESULT``, two JSON files. It is run by its path and with ComfyUI's own Python, in
which `multigpu` need not be installed. The request has ``comfyui``, its folder; ``flags``, what ComfyUI is started
with; ``packs``, folders of node packs that the job needs; ``job`` and ``arguments``.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def main(request_file: str, result_file: str) -> None:
    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    Path(result_file).write_text(json.dumps(_done(request)), encoding="utf-8")


def _done(request: dict[str, Any]) -> dict[str, Any]:
    _make_package()
    from multigpu.multigpu_core.simulation.environment import simulate_from_environment

    simulate_from_environment()  # before ComfyUI looks for its devices
    from multigpu.multigpu_core.provisioning.in_process import import_comfyui, start_framework

    nodes = import_comfyui(Path(request["comfyui"]), request["flags"])
    for pack in request["packs"]:  # before the framework, which looks at what is there
        if not asyncio.run(nodes.load_custom_node(pack, module_parent="custom_nodes")):
            return {"error": f"The node pack {pack} cannot be imported: start ComfyUI, whose log says why."}
    framework = start_framework(nodes)
    from multigpu.multigpu_core.comfy.trials.jobs import JOBS

    return JOBS[request["job"]](framework, request["arguments"])


def _make_package() -> None:
    file = ROOT / "_bootstrap.py"
    spec = importlib.util.spec_from_file_location("multigpu_bootstrap", file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} cannot be imported", path=str(file))
    bootstrap = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bootstrap)
    bootstrap.ensure_package()


if __name__ == "__main__":
    sys.path.pop(0)  # this script's folder has modules with the names of others
    main(*sys.argv[1:])
