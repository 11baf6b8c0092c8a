"""Run targets of the Makefile one after another, and print how long each took: `python .ci/stages.py TARGET...`.

The first target that fails ends the run, and its exit status is returned. A target that prints nothing for a while is
named in a line, so that a download or a long test does not look like a hang. Needs Python alone: it also runs the
targets that create the virtual environment.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence

QUIET_SECONDS = float(os.environ.get("STAGES_QUIET_SECONDS", "15"))
MAKE = os.environ.get("MAKE", "make")
NOT_RUN = "not run"


def run(target: str) -> int:
    """Run one target, passing on what it prints; return its exit status."""
    began = time.monotonic()
    command = [MAKE, "--no-print-directory", target]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment()) as process:
        assert process.stdout is not None
        output, last = process.stdout.fileno(), b"\n"
        while True:
            if not select.select([output], [], [], QUIET_SECONDS)[0]:
                write(line(last, f"... {target} is still running, {duration(time.monotonic() - began)}"))
                last = b"\n"
                continue
            chunk = os.read(output, 65536)
            if not chunk:
                return process.wait()
            write(chunk)
            last = chunk


def environment() -> dict[str, str]:
    """This process's environment; where it prints to a terminal, programs are told to use colours in their pipe."""
    return {**os.environ, **({"FORCE_COLOR": "1"} if sys.stdout.isatty() else {})}


def line(last: bytes, text: str) -> bytes:
    """`text` as a line of its own after `last`, which may have ended in the middle of one."""
    return (b"" if last.endswith(b"\n") else b"\n") + text.encode() + b"\n"


def write(content: bytes) -> None:
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"


def table(results: Sequence[tuple[str, str, str]]) -> str:
    """The rows (target, duration, remark) in columns."""
    width = max(len(name) for name, *_ in results)
    return "\n".join(f"{name:<{width}}  {took:>7}  {remark}".rstrip() for name, took, remark in results)


def main(targets: Sequence[str]) -> int:
    began, status = time.monotonic(), 0
    results = []
    for target in targets:
        if status:
            results.append((target, NOT_RUN, ""))
            continue
        start = time.monotonic()
        write(f"== {target}\n".encode())
        try:
            status = run(target)
        except KeyboardInterrupt:
            status = 130
        remark = f"failed, exit status {status}" if status else ""
        results.append((target, duration(time.monotonic() - start), remark))
    results.append(("together", duration(time.monotonic() - began), ""))
    write(f"\n{table(results)}\n".encode())
    return status


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
