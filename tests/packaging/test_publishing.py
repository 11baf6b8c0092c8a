"""What the ComfyUI registry and ComfyUI-Manager ask for is there, and the owner fills in two values in one place."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from PIL import Image

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ADDRESS = "https://github.com/someone/ComfyUI-MultiGPU"


@pytest.fixture
def checkout(repository: Path, tmp_path: Path) -> Path:
    """A folder with what the script reads and writes."""
    (tmp_path / ".ci").mkdir()
    for name in ("pyproject.toml", ".ci/fill_in.py"):
        shutil.copy(repository / name, tmp_path / name)
    return tmp_path


def _fill_in(checkout: Path, repository: str, publisher: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ".ci/fill_in.py", "--repository", repository, "--publisher", publisher]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)


def test_two_values_fill_in_all_that_is_open(checkout: Path) -> None:
    done = _fill_in(checkout, ADDRESS, "someone")
    assert done.returncode == 0, done.stderr
    project = tomllib.loads((checkout / "pyproject.toml").read_text())
    assert project["project"]["urls"]["Repository"] == ADDRESS
    comfy = project["tool"]["comfy"]
    assert comfy["PublisherId"] == "someone" and all(comfy.values())
    assert comfy["Icon"].startswith("https://raw.githubusercontent.com/someone/ComfyUI-MultiGPU/")
    entry = json.loads(done.stdout)
    assert entry["reference"] == ADDRESS and entry["id"] == project["project"]["name"] and entry["description"]


def test_values_can_be_changed_again(checkout: Path) -> None:
    _fill_in(checkout, ADDRESS, "someone")
    assert _fill_in(checkout, ADDRESS.replace("someone", "other"), "other").returncode == 0
    text = (checkout / "pyproject.toml").read_text()
    assert "someone" not in text and text.count("[project.urls]") == 1


@pytest.mark.parametrize(
    ("address", "publisher", "told"),
    [("http://example.org/a", "someone", "https://github.com/OWNER/NAME"), (ADDRESS, "Some One", "small letters")],
)
def test_a_wrong_value_is_refused_and_nothing_is_written(
    checkout: Path, address: str, publisher: str, told: str
) -> None:
    before = (checkout / "pyproject.toml").read_text()
    done = _fill_in(checkout, address, publisher)
    assert done.returncode == 2 and told in done.stderr
    assert (checkout / "pyproject.toml").read_text() == before


def test_no_page_has_anything_left_to_fill_in(repository: Path) -> None:
    pages = [*repository.glob("*.md"), *repository.glob("docs/*.md"), *repository.glob(".github/**/*.y*ml")]
    assert len(pages) > 15
    for page in pages:
        assert not re.search(r"<(this|your|owner|repository)\b[^>]*>|TODO|FIXME", page.read_text(), re.IGNORECASE), page


def test_icon_and_banner_have_the_registry_s_shapes(repository: Path) -> None:
    with (
        Image.open(repository / "assets" / "icon.png") as icon,
        Image.open(repository / "assets" / "banner.png") as banner,
    ):
        assert icon.width == icon.height <= 400
        assert banner.width * 9 == banner.height * 21


def test_the_registry_s_archive_leaves_tests_at_home_and_keeps_what_comfyui_loads(repository: Path) -> None:
    left_out = [line for line in (repository / ".comfyignore").read_text().splitlines() if line and line[0] != "#"]
    assert {"tests/", "benchmarks/"} <= set(left_out)
    needed = (
        "__init__.py",
        "web/multigpu.js",
        "examples/sources",
        "integrations/gguf.py",
        "plugins.toml",
        "docs/index.md",
    )
    assert not any(name.startswith(folder) for name in needed for folder in left_out)


def test_the_source_archive_has_the_tests_the_guides_and_the_pages(sources: Path, tmp_path: Path) -> None:
    build = f"from setuptools import build_meta; build_meta.build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=sources, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    for path in ("tests/packaging/test_publishing.py", "docs/index.md", "web/multigpu.js", "Makefile", ".ci/run"):
        assert path in names
