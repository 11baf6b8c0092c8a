"""The promises about split models' steps, kept on the virtual clock."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[4] / "benchmarks" / "clock.py"


def test_a_split_model_is_near_the_limit_and_two_cards_are_faster_than_one(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARK), "--quick", "--json", "--trace", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    records = {record["name"]: record for record in json.loads(run.stdout)}
    promised = [record for record in records.values() if record["ratio"] is not None]
    assert len(promised) == 9 and all(record["ratio"] <= 1 for record in promised), promised
    assert run.returncode == 0
    assert json.loads((tmp_path / "flux.trace.json").read_text())["traceEvents"]
    assert (tmp_path / "flux.svg").read_text().startswith("<svg")
