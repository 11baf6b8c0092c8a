"""ComfyUI's start-up imports neither Ray nor blake3, and looking at device menus does not either."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from .conftest import NODE2

LOOK = """
import sys
import multigpu.multigpu_core.comfy.startup
from multigpu.multigpu_core.cluster.membership import ClusterFolder
from multigpu.multigpu_core.comfy.machines.machines import machines_of
print(*machines_of(ClusterFolder()).places())
print(*{"ray", "blake3"} & set(sys.modules))
"""


def test_start_up_and_menus_import_neither(tmp_path: Path) -> None:
    (tmp_path / "machines.json").write_text(json.dumps({"machines": [asdict(NODE2)]}))
    environment = {**os.environ, "MULTIGPU_CLUSTER": str(tmp_path)}
    command = [sys.executable, "-c", LOOK]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines() == ["node2/cpu", ""]
