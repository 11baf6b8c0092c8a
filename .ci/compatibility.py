"""Run the tests inside ComfyUI on a checkout, and write its row in docs/compatibility.md.

    python .ci/compatibility.py FOLDER [--only COLUMN...]

Everything but the page is tested: that needs a browser. Packages of which the checkout requires another version than
the one installed are put into .cache/compatibility, for this run alone. The exit status is pytest's.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from xml.etree import ElementTree

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "compatibility.md"
CACHE = ROOT / ".cache" / "compatibility"
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "splits": ("split",),
    "nodes": ("nodes", "conformance"),
    "any node": ("any_node",),
    "node packs": ("integrations",),
    "ControlNets, patches": ("auxiliary",),
    "memory, prompt worker": ("memory", "host"),
    "commands": ("cli",),
}
"""The columns of the table, and the folders of tests/comfyui that each counts."""
HEADING = f"| ComfyUI | with | run on | {' | '.join(COLUMNS)} |"
SHOWN_PACKAGES = ("comfy-aimdo", "comfy-kitchen")


class NoComfyUIError(ValueError):
    """The folder holds no ComfyUI."""


def version_of(folder: Path) -> str:
    """The version that a checkout says it is."""
    try:
        text = (folder / "comfyui_version.py").read_text(encoding="utf-8")
    except OSError as error:
        raise NoComfyUIError(f"{folder} holds no ComfyUI: there is no comfyui_version.py. Name its root.") from error
    found = re.search(r"^__version__ = [\"'](.+)[\"']", text, re.MULTILINE)
    if found is None:
        raise NoComfyUIError(f"{folder}: comfyui_version.py states no version. Name the root of a ComfyUI.")
    return found[1]


def requirements(text: str) -> Iterator[Requirement]:
    for line in text.splitlines():
        try:
            yield Requirement(line.partition("#")[0].strip())
        except InvalidRequirement:  # an empty line, or an option of pip
            continue


def unsatisfied(required: Iterable[Requirement], installed: Mapping[str, str]) -> list[str]:
    """The requirements that what is installed does not meet."""

    def is_met(each: Requirement) -> bool:
        version = installed.get(canonicalize_name(each.name))
        return version is not None and each.specifier.contains(version, prereleases=True)

    return [str(each) for each in required if not is_met(each)]


def installed_in(folder: Path | None = None) -> dict[str, str]:
    """The versions of the packages in a folder, or of those that this Python finds."""
    found = importlib.metadata.distributions(**({"path": [str(folder)]} if folder else {}))
    return {canonicalize_name(each.name): each.version for each in found}


def install(needed: list[str], folder: Path) -> None:
    """Put packages into a folder, without what they depend on."""
    if needed:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*command, "--upgrade", "--target", str(folder), *needed], check=True)


def test(comfyui: Path, packages: Path, results: Path, tests: list[str]) -> int:
    """Run tests inside a ComfyUI; return pytest's exit status."""
    environment = {**os.environ, "COMFYUI_PATH": str(comfyui), "PYTHONPATH": str(packages), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-n", os.environ.get("WORKERS", "2"), "--dist", "loadfile"]
    command += ["-p", "no:randomly", "-m", "not long", f"--junitxml={results}", *tests]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def outcomes(results: Path) -> dict[str, Counter[str]]:
    """How many tests of each folder of tests/comfyui passed, failed and were skipped."""
    found: dict[str, Counter[str]] = {}
    for case in ElementTree.parse(results).iter("testcase"):
        folder = (case.get("classname") or "").split(".")[2:3]
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        found.setdefault("".join(folder), Counter())[outcome] += 1
    return found


def cell(counts: Counter[str]) -> str:
    """The counts in words; `not run` for none."""
    shown = [f"{counts[kind]:,} {kind}" for kind in ("passed", "failed", "skipped") if counts[kind]]
    return ", ".join(shown) or "not run"


def row(version: str, packages: str, day: str, by_folder: Mapping[str, Counter[str]]) -> str:
    """The line of the table."""
    none: Counter[str] = Counter()
    cells = (cell(sum((by_folder.get(folder, none) for folder in folders), none)) for folders in COLUMNS.values())
    return f"| {version} | {packages} | {day} | {' | '.join(cells)} |"


def with_row(page: str, new: str) -> str:
    """The page with a row in its table: in place of the one for the same version, newest version first."""
    before, heading, rest = page.partition(HEADING + "\n")
    if not heading:
        raise ValueError(f"the page has no table with this heading:\n{HEADING}")
    rule, *lines = rest.split("\n")
    end = next(place for place, line in enumerate([*lines, ""]) if not line.startswith("|"))
    rows = {line.split("|")[1].strip(): line for line in [*lines[:end], new]}
    ordered = sorted(rows, key=Version, reverse=True)
    return "\n".join([before + HEADING, rule, *(rows[version] for version in ordered), *lines[end:]])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="the root of a ComfyUI")
    parser.add_argument("--only", nargs="+", choices=[*COLUMNS], default=[*COLUMNS], help="the columns to run")
    options = parser.parse_args()
    comfyui = options.folder.expanduser().resolve()
    try:
        version = version_of(comfyui)
    except NoComfyUIError as error:
        parser.error(str(error))
    required = list(requirements((comfyui / "requirements.txt").read_text(encoding="utf-8")))
    installed = installed_in()
    packages, results = CACHE / version, CACHE / f"{version}.xml"
    packages.mkdir(parents=True, exist_ok=True)
    install(unsatisfied(required, installed), packages)
    folders = [f"tests/comfyui/{folder}" for column in options.only for folder in COLUMNS[column]]
    status = test(comfyui, packages, results, folders)
    if status > 1:  # pytest itself was stopped
        return status
    used = {**installed, **installed_in(packages)}
    shown = ", ".join(f"{name} {used[name]}" for name in SHOWN_PACKAGES if name in used)
    line = row(version, shown, datetime.date.today().isoformat(), outcomes(results))
    PAGE.write_text(with_row(PAGE.read_text(encoding="utf-8"), line), encoding="utf-8")
    print(f"{HEADING}\n{line}")
    return status


if __name__ == "__main__":
    raise SystemExit(main())
