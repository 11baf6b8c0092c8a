"""One package, `multigpu`, in each of the three ways in which people install it."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PLAIN_IMPORT = """
import json, sys
import multigpu
from multigpu import hookimpl
heavy = sorted({"torch", "comfy", "nodes", "folder_paths"} & set(sys.modules))
import multigpu.multigpu_core.allocation.language.request as request
print(json.dumps({
    "version": multigpu.__version__,
    "file": multigpu.__file__,
    "heavy": heavy,
    "module": request.AllocationRequest.__module__,
}))
"""

# What ComfyUI's start-up does with a custom node folder: each file under a name made from its path.
COMFYUI_IMPORT = """
import importlib.util, json, os, sys, types
folder = sys.argv[1]

def run(name, file):
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    return spec, module

startup = types.ModuleType("multigpu.multigpu_core.comfy.startup")
startup.start = lambda: types.SimpleNamespace(NODE_CLASS_MAPPINGS={"A": int}, NODE_DISPLAY_NAME_MAPPINGS={"A": "a"})
sys.modules[startup.__name__] = startup

script = os.path.join(folder, "prestartup_script.py")
if os.path.exists(script):
    spec, module = run(os.path.splitext(script)[0], script)
    spec.loader.exec_module(module)
name = folder.replace(".", "_x_")
spec, node = run(name, os.path.join(folder, "__init__.py"))
sys.modules[name] = node
spec.loader.exec_module(node)

import multigpu
from multigpu.multigpu_core.allocation.language import request
copies = [m for m, module in sys.modules.items()
          if str(getattr(module, "__file__", "")).endswith("multigpu_core/allocation/language/request.py")]
print(json.dumps({
    "nodes": node.NODE_CLASS_MAPPINGS["A"].__name__,
    "root": os.path.dirname(multigpu.__file__),
    "copies": copies,
    "version": multigpu.__version__,
}))
"""


@pytest.fixture
def fresh_environment(tmp_path: Path) -> Callable[..., Path]:
    """Makes a virtual environment and installs into it; dependencies and build tools are those of the running one."""

    def install(*arguments: str) -> Path:
        venv.create(tmp_path / "venv")
        python = tmp_path / "venv" / "bin" / "python"
        # The path alone: an editable install there, whose hooks a .pth file would start, stays out of sight.
        (site_packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
        (site_packages / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
        # Ours is installed beside that path: without the option pip would take it for installed there.
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
        pip += ["--no-build-isolation", "--ignore-installed"]
        done = subprocess.run([*pip, *arguments], check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return python

    return install


def _run(python: Path | str, code: str, *arguments: str, folder: Path) -> dict[str, object]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "MULTIGPU"))}
    command = [str(python), "-c", code, *arguments]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    reply: dict[str, object] = json.loads(result.stdout.splitlines()[-1])
    return reply


def test_pip_install_gives_multigpu_without_the_checkout_and_without_torch(
    sources: Path, fresh_environment: Callable[..., Path], tmp_path: Path
) -> None:
    python = fresh_environment(str(sources))
    seen = _run(python, PLAIN_IMPORT, folder=tmp_path)
    assert str(seen["file"]).startswith(str(tmp_path / "venv"))
    assert seen["heavy"] == []
    assert seen["module"] == "multigpu.multigpu_core.allocation.language.request"
    shipped = Path(str(seen["file"])).parent
    assert (shipped / "py.typed").exists()
    assert not (shipped / "tests").exists()


def test_editable_install_follows_the_checkout(
    sources: Path, fresh_environment: Callable[..., Path], tmp_path: Path
) -> None:
    python = fresh_environment("-e", str(sources))
    seen = _run(python, PLAIN_IMPORT, folder=tmp_path)
    assert Path(str(seen["file"])) == sources / "__init__.py"
    assert seen["heavy"] == []


@pytest.mark.parametrize("name", ["ComfyUI-MultiGPU", "My MultiGPU-1.0 (test)", "multigpu", "a.b.c", "nœuds 多卡"])
def test_comfyui_finds_one_multigpu_under_any_folder_name(sources: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "custom_nodes" / name
    folder.parent.mkdir()
    shutil.copytree(sources, folder)
    seen = _run(sys.executable, COMFYUI_IMPORT, str(folder), folder=tmp_path)
    assert seen["nodes"] == "int"
    assert seen["root"] == str(folder)
    assert seen["copies"] == ["multigpu.multigpu_core.allocation.language.request"]


def test_comfyui_finds_one_multigpu_behind_a_link(sources: Path, tmp_path: Path) -> None:
    link = tmp_path / "custom_nodes" / "linked"
    link.parent.mkdir()
    link.symlink_to(sources)
    seen = _run(sys.executable, COMFYUI_IMPORT, str(link), folder=tmp_path)
    assert seen["root"] == str(sources)
    assert seen["copies"] == ["multigpu.multigpu_core.allocation.language.request"]


def test_a_second_copy_gives_way_to_the_one_in_use_and_says_so(
    repository: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    second = tmp_path / "second" / "_bootstrap.py"
    second.parent.mkdir()
    shutil.copy2(repository / "_bootstrap.py", second)
    package = runpy.run_path(str(second))["ensure_package"]()
    assert package is sys.modules["multigpu"]
    assert "installed twice" in caplog.text
    assert str(second.parent) in caplog.text


def test_every_python_folder_is_listed_for_the_wheel(repository: Path) -> None:
    listed = set(_project(repository)["tool"]["setuptools"]["packages"])
    rooms = [*(repository / "multigpu_core").rglob("*.py"), *(repository / "integrations").rglob("*.py")]
    present = {".".join(("multigpu", *file.parent.relative_to(repository).parts)) for file in rooms}
    assert present | {"multigpu"} == listed


def test_one_version_everywhere(repository: Path) -> None:
    import multigpu

    assert _project(repository)["project"]["version"] == multigpu.__version__


def test_comfyui_manager_installs_what_pip_would_and_never_torch(repository: Path) -> None:
    lines = (repository / "requirements.txt").read_text().splitlines()
    required = [line for line in lines if line and not line.startswith("#")]
    assert required == _project(repository)["project"]["dependencies"]
    assert not [line for line in required if line.startswith("torch")]


def _project(repository: Path) -> dict[str, dict[str, dict[str, list[str]]]]:
    project: dict[str, dict[str, dict[str, list[str]]]] = tomllib.loads((repository / "pyproject.toml").read_text())
    return project
