"""An error at every copy and allocation, in turn, of all that is done with a split model: what is whole afterwards.

python benchmarks/faults.py [--json] [--every-error] [--keep FILE]

Runs tests/comfyui/split/test_faults.py with every step instead of a few: loading, loading with a LoRA, giving memory
back, unloading and computing, with weights that stream and with relayed ones. The errors are out of memory, an
unexpected one, ComfyUI's interrupt and Ctrl-C, in turn from step to step, or every one at every step. After each,
bytes, hooks and ComfyUI's list are checked, and the next picture, bit for bit. Forty minutes of one core, or three
hours; the first case that is not survived ends it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from records import Record, report

TESTS = Path(__file__).parents[1] / "tests" / "comfyui" / "split" / "test_faults.py"


def measure(every_error: bool) -> Iterator[Record]:
    with tempfile.TemporaryDirectory() as folder:
        counts = Path(folder) / "counts"
        command = [sys.executable, "-m", "pytest", str(TESTS), "-q", "-x", "-m", "not long"]
        environment = {**os.environ, "MULTIGPU_FAULTS_EVERYWHERE": str(counts)}
        if every_error:
            environment["MULTIGPU_FAULTS_EVERY_ERROR"] = "1"
        run = subprocess.run(command, env=environment, capture_output=True, text=True)
        if run.returncode:
            raise SystemExit(run.stdout[-4000:] + run.stderr[-2000:])
        for line in counts.read_text().splitlines():
            count = json.loads(line)
            yield Record(f"{count['scene']}, {count['deed']}: tried, and all survived", count["survived"], "errors")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print a list of records instead of a table")
    parser.add_argument("--every-error", action="store_true", help="every error at every step")
    parser.add_argument("--keep", type=Path, help="write the records, with machine and date, to this file")
    options = parser.parse_args()
    report("Errors at every copy and allocation", list(measure(options.every_error)), options.json, options.keep)
