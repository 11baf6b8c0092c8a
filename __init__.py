"""MultiGPU for ComfyUI: put a model on the device you choose, or split its weights over several.

ComfyUI imports this folder under a name made from its path; then the framework starts and the nodes are exposed.
Imported by its own name, `multigpu`, it is a plain package: neither torch nor ComfyUI is touched.
"""

from __future__ import annotations

__version__ = "0.1.0"

if __name__ == "multigpu":
    from multigpu.hookspecs import hookimpl

    __all__ = ["__version__", "hookimpl"]
else:
    from ._bootstrap import ensure_package

    ensure_package()

    from multigpu.multigpu_core.comfy.startup import start

    # A failure here is ComfyUI's to report: it logs the traceback, marks this folder IMPORT FAILED and goes on.
    _framework = start()
    NODE_CLASS_MAPPINGS = _framework.NODE_CLASS_MAPPINGS
    NODE_DISPLAY_NAME_MAPPINGS = _framework.NODE_DISPLAY_NAME_MAPPINGS
    WEB_DIRECTORY = "./web"

    __all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]
