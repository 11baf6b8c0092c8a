"""Runs a script in this process and ends it with the process that started it, however that one ended.

Run by its path: ``python comfyui_process.py SCRIPT ARGUMENTS…``, with a pipe as standard input that the starter holds
open. The pipe closes even when the starter is killed, so that no server is ever left behind. Standard library only.
"""

from __future__ import annotations

import os
import runpy
import sys
import threading


def _end_with_starter() -> None:
    # The raw descriptor: a thread inside sys.stdin.read() would hold its lock when the interpreter shuts down.
    while os.read(0, 1024):
        pass
    os._exit(1)


def main() -> None:
    script, *arguments = sys.argv[1:]
    threading.Thread(target=_end_with_starter, name="end-with-starter", daemon=True).start()
    sys.argv = [script, *arguments]
    sys.path[0] = os.path.dirname(script)
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
