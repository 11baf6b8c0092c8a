"""The checks of `multigpu doctor`: each reports what it found and what to do, or nothing."""

from __future__ import annotations

from . import checks_of_cluster, checks_of_comfyui, checks_of_machine
from .finding import Finding, Severity
from .snapshot import Snapshot

CHECKS = (*checks_of_comfyui.CHECKS, *checks_of_machine.CHECKS, *checks_of_cluster.CHECKS)


def findings(here: Snapshot) -> list[Finding]:
    """All of all checks, the worst first."""
    found = [finding for check in CHECKS for finding in check(here)]
    order = list(Severity)
    return sorted(found, key=lambda finding: -order.index(finding.severity))
