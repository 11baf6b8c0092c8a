"""Tools for authors of plugins and node packs: the conformance kit, simulated accelerators, a ComfyUI to test in.

    from multigpu.testing import LoaderTrial, check_loader, check_plugin

The names load when they are first used: `check_plugin` needs neither torch nor ComfyUI.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multigpu.multigpu_core.testing import *  # noqa: F403
else:
    from multigpu.multigpu_core.testing import __all__, __getattr__  # noqa: F401
