"""Makes this folder the package `multigpu`, whatever the folder is called and whoever imports it first.

ComfyUI runs `prestartup_script.py` and `__init__.py` under names made from their path. Both come here, so that every
module exists once, under `multigpu`, which is also the name that plugins import. This file stands alone: it can be
loaded by its path before there is any package.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from pathlib import Path
from types import ModuleType

PACKAGE = "multigpu"
ROOT = Path(__file__).resolve().parent


def ensure_package() -> ModuleType:
    """The one package object `multigpu`; made from this folder unless it is imported already.

    A copy that was imported earlier from elsewhere (a second clone, a pip install) stays in use, because half of each
    would be worse than either; the log says so.
    """
    present = sys.modules.get(PACKAGE)
    if present is not None:
        _warn_if_foreign(present)
        return present
    return _import_from(ROOT / "__init__.py")


def _import_from(init_file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        PACKAGE, init_file, submodule_search_locations=[str(init_file.parent)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{init_file} cannot be imported", name=PACKAGE, path=str(init_file))
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[PACKAGE]
        raise
    return module


def _warn_if_foreign(package: ModuleType) -> None:
    folder = Path(package.__file__ or "").resolve().parent
    if folder != ROOT:
        logging.getLogger(PACKAGE).warning(
            "MultiGPU is installed twice: using %s, ignoring %s. Remove one of them.", folder, ROOT
        )
