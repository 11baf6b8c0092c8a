"""The code that a worker runs: home's own, so that both ends are of one version, in one folder that Ray sends."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import multigpu

_IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")


def make_bundle(folder: Path, others: Iterable[Path] = ()) -> Path:
    """Copy this package, as ``multigpu``, and `others`, packages and modules by their own names, into a new folder."""
    root = Path(multigpu.__file__).resolve().parent
    ours = folder / "multigpu"
    ours.mkdir(parents=True)
    for file in (*root.glob("*.py"), root / "plugins.toml"):
        shutil.copy(file, ours)
    for name in ("multigpu_core", "integrations"):
        shutil.copytree(root / name, ours / name, ignore=_IGNORED)
    for other in others:
        if other.is_dir():
            shutil.copytree(other, folder / other.name, ignore=_IGNORED)
        else:
            shutil.copy(other, folder)
    return folder
