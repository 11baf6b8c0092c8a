"""What nvidia-smi reports for every NVIDIA GPU: its PCIe link, and how much of its memory others can access."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree

_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_SIZE = re.compile(r"(\d+)\s*(KiB|MiB|GiB)")
ANSWER_SECONDS = 10


@dataclass(frozen=True)
class NvidiaCard:
    """PCIe generation and lanes, now and at most, and sizes in bytes; 0 where nvidia-smi does not tell.

    An idle card slows its link down. `window_bytes` of its memory can be reached over PCIe at a time (BAR1).
    """

    name: str
    generation: int = 0
    most_generation: int = 0
    width: int = 0
    most_width: int = 0
    memory_bytes: int = 0
    window_bytes: int = 0


def nvidia_cards() -> tuple[NvidiaCard, ...]:
    """Every NVIDIA card; none where there is no nvidia-smi, or it does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    try:
        answer = subprocess.run([program, "-q", "-x"], capture_output=True, timeout=ANSWER_SECONDS, check=True).stdout
        return tuple(cards_in(answer))
    except (OSError, subprocess.SubprocessError, ElementTree.ParseError):
        return ()


def cards_in(xml: bytes) -> Iterator[NvidiaCard]:
    """The cards in what ``nvidia-smi -q -x`` prints.

    Raises:
        xml.etree.ElementTree.ParseError: it is no XML.
    """
    for gpu in ElementTree.fromstring(xml).iter("gpu"):
        yield NvidiaCard(
            gpu.findtext("product_name", "NVIDIA card"),
            _number(gpu, "pci/pci_gpu_link_info/pcie_gen/current_link_gen"),
            _number(gpu, "pci/pci_gpu_link_info/pcie_gen/max_link_gen"),
            _number(gpu, "pci/pci_gpu_link_info/link_widths/current_link_width"),
            _number(gpu, "pci/pci_gpu_link_info/link_widths/max_link_width"),
            _size(gpu, "fb_memory_usage/total"),
            _size(gpu, "bar1_memory_usage/total"),
        )


def _number(gpu: ElementTree.Element, path: str) -> int:
    """Of ``16x`` and the like; 0 for ``N/A``."""
    found = re.match(r"\d+", gpu.findtext(path, "").strip())
    return int(found[0]) if found else 0


def _size(gpu: ElementTree.Element, path: str) -> int:
    found = _SIZE.fullmatch(gpu.findtext(path, "").strip())
    return int(found[1]) * _UNITS[found[2]] if found else 0
