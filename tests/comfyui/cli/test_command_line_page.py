"""docs/cli.md: every command line on the page does what the page shows."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from torch._subclasses.fake_tensor import FakeTensorMode

from multigpu.multigpu_core.cli.app import app
from multigpu.multigpu_core.cli.bench import Benchmark
from multigpu.multigpu_core.cli.demo.models import write_demo_models
from multigpu.multigpu_core.provisioning import tiny_models

PAGE = (Path(__file__).parents[3] / "docs" / "cli.md").read_text(encoding="utf-8")
EXAMPLES: dict[str, str] = dict(re.findall(r"^```console\n\$ (.*?)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
RUN_BY_ANOTHER_TEST = {"multigpu demo --steps 2": "test_demo.py", "multigpu bench plan --json": "test_benchmarks.py"}
"""Each shows figures alone, and takes a while: run once, by the test that looks at what comes of it."""
FLUX = tiny_models.FluxShape(double_blocks=19, single_blocks=38, hidden_size=3072, context_dim=4096, pooled_dim=768)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the page's reader is: with the demo's models, a Flux file of full size, and `multigpu` on the path."""
    here = tmp_path_factory.mktemp("reader")
    write_demo_models(here / ".cache" / "demo" / "models")
    _write_large_flux(here / "flux1-dev.safetensors")
    command = here / "bin" / "multigpu"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m multigpu "$@"\n')
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    return here


def _write_large_flux(file: Path) -> None:
    """A header with the names and shapes of the real thing; the weights take no room on the disk."""
    header, end = {}, 0
    with FakeTensorMode():  # type: ignore[no-untyped-call]
        for name, value in tiny_models.flux_weights(FLUX).items():
            size = 2 * value.numel()
            header[name] = {"dtype": "BF16", "shape": list(value.shape), "data_offsets": [end, end + size]}
            end += size
    raw = json.dumps(header).encode()
    with file.open("wb") as out:
        out.write(len(raw).to_bytes(8, "little") + raw)
        out.truncate(8 + len(raw) + end)


@pytest.mark.skipif(shutil.which("bash") is None, reason="the page's lines are a shell's")
@pytest.mark.parametrize("line", [line for line in EXAMPLES if line not in RUN_BY_ANOTHER_TEST])
def test_a_command_does_what_the_page_shows(line: str, folder: Path, comfyui_path: Path) -> None:
    environment = {
        **os.environ,
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "100",
        "COMFYUI_PATH": str(comfyui_path),
        "MULTIGPU_PROFILE": str(folder / "profile.json"),
        "MULTIGPU_SIMULATE": "2x8gb",
    }
    run = subprocess.run(
        ["bash", "-c", line], cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    shown = EXAMPLES[line]
    if shown:
        assert run.returncode == 0, run.stdout
        assert re.fullmatch(_pattern(shown), _plain(run.stdout)), run.stdout
    else:  # figures of the machine, which may also miss what was promised
        assert run.returncode in (0, 1) and run.stdout and "Traceback" not in run.stdout, run.stdout


def _plain(text: str) -> str:
    """Without the lines of tables, and with single spaces: columns are as wide as what is in them."""
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n".join(line for line in lines if line and not re.fullmatch(r"[\s\u2500-\u257f]+", line))


def _pattern(shown: str) -> str:
    return re.escape(_plain(shown)).replace("…", r"[\s\S]*")


def test_every_command_has_its_example_on_the_page() -> None:
    commands = {
        (info.name or info.callback.__name__).replace("_", "-") for info in app.registered_commands if info.callback
    }
    on_several_machines = {group.name for group in app.registered_groups}  # run by the tests of machines
    shown = {re.sub(r"^\w+= ", "", line).split()[1] for line in EXAMPLES}
    assert commands == shown
    assert commands | on_several_machines == set(re.findall(r"^## (\S+)$", PAGE, re.MULTILINE))


def test_what_another_test_runs_is_on_the_page_without_output() -> None:
    assert [EXAMPLES[line] for line in RUN_BY_ANOTHER_TEST] == ["", ""]


def test_every_benchmark_is_on_the_page() -> None:
    listed = PAGE.partition("## bench")[2].partition("```")[0]
    assert set(re.findall(r"`(\w+)`", listed)) == {benchmark.value for benchmark in Benchmark}
