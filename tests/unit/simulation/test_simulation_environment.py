"""Turning simulated accelerators on by an environment variable."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from multigpu.testing import SimulationSpecError, parse_sizes

MB, GB = 1024**2, 1024**3


@pytest.mark.parametrize(
    ("spec", "sizes"),
    [
        ("8gb", (8 * GB,)),
        ("2x8gb", (8 * GB, 8 * GB)),
        ("8gb,4gb", (8 * GB, 4 * GB)),
        ("3x512mb", (512 * MB,) * 3),
        ("1.5G, 2 x 512 M", (1536 * MB, 512 * MB, 512 * MB)),
        ("1048576", (MB,)),
    ],
)
def test_sizes_are_read_in_powers_of_1024(spec: str, sizes: tuple[int, ...]) -> None:
    assert parse_sizes(spec) == sizes


@pytest.mark.parametrize(
    ("spec", "part"),
    [
        ("8gb,,4gb", ""),
        ("two", "two"),
        ("8xb", "8xb"),
        ("-1gb", "-1gb"),
        ("0gb", "0gb"),
        ("8gb,0x4gb", "0x4gb"),
        ("8,12", "8"),
    ],
)
def test_a_wrong_size_is_quoted_with_what_would_be_right(spec: str, part: str) -> None:
    with pytest.raises(SimulationSpecError, match="8gb,4gb") as caught:
        parse_sizes(spec)
    assert (caught.value.spec, caught.value.part) == (spec, part)


def test_a_count_that_no_machine_has_is_refused() -> None:
    with pytest.raises(SimulationSpecError, match="more than 64 devices"):
        parse_sizes("2x1gb,65x1gb")


def _after_prestartup(repository: Path, code: str, simulate: str | None) -> subprocess.CompletedProcess[str]:
    """Run `code` where ComfyUI has run our prestartup script, in a process that cannot see our package otherwise."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "MULTIGPU_SIMULATE")}
    if simulate is not None:
        environment["MULTIGPU_SIMULATE"] = simulate
    script = f"import runpy, sys; runpy.run_path({str(repository / 'prestartup_script.py')!r})\n{code}"
    return subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)


def test_without_the_variable_starting_up_imports_no_torch(repository: Path) -> None:
    done = _after_prestartup(repository, "print('torch' in sys.modules, 'multigpu' in sys.modules)", simulate=None)
    assert done.stdout.split() == ["False", "False"], done.stderr


def test_with_the_variable_comfyui_finds_the_devices(repository: Path) -> None:
    code = "import torch, torch_npu; print(torch.npu.device_count(), torch.version.cuda, 'multigpu' in sys.modules)"
    done = _after_prestartup(repository, code, simulate="3x512mb")
    assert done.stdout.split() == ["3", "None", "True"], done.stderr


def test_a_wrong_variable_stops_the_start_with_one_clear_line(repository: Path) -> None:
    done = _after_prestartup(repository, "print('went on')", simulate="eight")
    assert done.returncode != 0 and "went on" not in done.stdout
    assert "'eight' does not describe simulated devices" in done.stderr and "Traceback" not in done.stderr
