"""Simulated accelerators for the tests of this folder."""

from __future__ import annotations

pytest_plugins = ["multigpu.multigpu_core.testing.fixtures"]
