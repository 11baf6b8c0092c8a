"""Speeds as published for the kind of device, until a machine's own have been measured.

Links: PCIe 4.0 x16, 24 to 27 GB/s pinned and 12.9 to 18.4 GB/s pageable; two cards without peer access, through
the host, 12 to 13 GB/s, with it, the speed of the slot. Products of matrices: an RTX 3090's order of magnitude; the
fastest of today's cards have ten times as much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from multigpu.multigpu_core.devices.registry import DeviceRegistry

from .profile import HardwareProfile, LinkSpeed

HOST_LINK = LinkSpeed(25e9, 13e9, 10e-6)
BETWEEN_CARDS = LinkSpeed(12e9, 12e9, 20e-6)
PEER_LINK = LinkSpeed(25e9, 25e9, 10e-6)
FLOPS_PER_SECOND = {"float32": 30e12, "float16": 70e12, "bfloat16": 70e12}
CPU_FLOPS_PER_SECOND = {"float32": 0.5e12}


def published_profile(registry: DeviceRegistry) -> HardwareProfile:
    """A plausible profile of every pair of a registry's devices; asks the drivers for peer access and nothing else."""
    published = published_profile_of(registry.names(), registry.has_peer_access)
    return replace(published, is_simulated=registry.is_simulated)


def published_profile_of(
    names: Iterable[str], has_peer_access: Callable[[str, str], bool] = lambda reader, source: False
) -> HardwareProfile:
    """The same for devices that need not be there; `has_peer_access(reader, source)` says who can read whom."""
    names = tuple(names)

    def link(source: str, target: str) -> LinkSpeed:
        if "cpu" in (source, target):
            return HOST_LINK
        return PEER_LINK if has_peer_access(target, source) else BETWEEN_CARDS

    links = {(a, b): link(a, b) for a in names for b in names if a != b}
    rates = {name: CPU_FLOPS_PER_SECOND if name == "cpu" else FLOPS_PER_SECOND for name in names}
    return HardwareProfile(links, rates)
