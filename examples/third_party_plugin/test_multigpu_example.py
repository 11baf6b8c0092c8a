"""The plugin says what it wraps, and MultiGPU accepts it."""

from __future__ import annotations

import multigpu_example
from multigpu import hookspecs
from multigpu.multigpu_core.plugins import PluginManager


def test_multigpu_accepts_the_plugin() -> None:
    plugins = PluginManager(hookspecs)
    plugins.register(multigpu_example, "example")
    assert plugins.records["example"].works, plugins.records["example"].why_not


def test_every_loader_gets_a_device_and_a_split() -> None:
    for loader in multigpu_example.multigpu_wrap_loader():
        assert [variant.node_id for variant in loader.variants] == [
            f"{loader.target}MultiGPU",
            f"{loader.target}DisTorch2MultiGPU",
        ]
