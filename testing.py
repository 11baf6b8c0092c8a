"""Tools for authors of plugins and node packs: the conformance kit, simulated accelerators, a ComfyUI to test in.

    from multigpu.testing import LoaderTrial, check_loader, check_plugin

    pytest_plugins = ["multigpu.testing"]  # brings the fixtures simulated_comfyui and simulated_machine

The names load when they are first used: `check_plugin` needs neither torch nor ComfyUI.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from multigpu.multigpu_core.testing.fixtures import simulated_comfyui, simulated_machine  # noqa: F401

if TYPE_CHECKING:
    from multigpu.multigpu_core.testing import *  # noqa: F403
else:
    from multigpu.multigpu_core.testing import __all__, __getattr__  # noqa: F401
