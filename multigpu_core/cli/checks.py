"""The checks of `multigpu doctor`: each finds nothing, or says what is there and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from .surroundings import Surroundings

TESTED = ("0.33.0", "0.30.0", "0.24.1", "0.18.2")
"""The versions of ComfyUI in which our tests passed: docs/compatibility.md and the README have the same."""
LEAST_PYTHON, LEAST_TORCH = (3, 10), (2, 4)
FEW_SWAP_BYTES = 8 << 30


class Severity(str, Enum):
    """How bad a finding is; a problem keeps something from working."""

    NOTE = "note"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """What a check found, and what to do about it."""

    severity: Severity
    what: str
    todo: str


Check = Callable[[Surroundings], Iterator[Finding]]


def versions(here: Surroundings) -> Iterator[Finding]:
    if here.python < LEAST_PYTHON:
        yield _problem(f"Python {_dotted(here.python)} is too old.", f"Use Python {_dotted(LEAST_PYTHON)} or later.")
    if here.torch < LEAST_TORCH:
        yield _problem(f"torch {_dotted(here.torch)} is too old.", f"Update torch to {_dotted(LEAST_TORCH)} or later.")


def comfyui(here: Surroundings) -> Iterator[Finding]:
    if here.comfyui is None:
        yield _note("This copy is in no ComfyUI.", "Put it into custom_nodes, or name the folder: --comfyui PATH.")
    elif not here.comfyui_version:
        yield _warning(f"{here.comfyui} does not look like a ComfyUI.", "Name the folder that has comfyui_version.py.")
    elif here.comfyui_version not in TESTED:
        todo = f"If something fails, try one of {', '.join(TESTED)}, in which the tests passed."
        yield _note(f"ComfyUI {here.comfyui_version} has not been tested.", todo)


def other_extension(here: Surroundings) -> Iterator[Finding]:
    for folder in here.rivals:
        what = f"ComfyUI-MultiGPU is installed, too, in custom_nodes/{folder}: its nodes have the same ids."
        yield _problem(what, "Remove one of the two extensions and restart ComfyUI.")


def settings(here: Surroundings) -> Iterator[Finding]:
    for problem in here.settings_problems:
        yield _warning(problem, "Correct the entry; until then the value beneath it stands.")


def devices(here: Surroundings) -> Iterator[Finding]:
    for problem in here.device_problems:
        yield _warning(problem, "The device is left out: see whether its driver and torch's build fit each other.")
    cards = [info for info in here.devices if info.name != "cpu"]
    if not cards:
        todo = "If there is a card, install torch's build for it; simulated ones: MULTIGPU_SIMULATE=2x8gb."
        yield _note("torch sees no accelerator.", todo)
    elif len(cards) == 1:
        yield _note(f"There is one accelerator, {cards[0].name}.", "Weights can be split between it and the cpu.")


def hidden_cards(here: Surroundings) -> Iterator[Finding]:
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ONEAPI_DEVICE_SELECTOR"):
        if here.environ.get(name):
            yield _note(f"{name} is {here.environ[name]!r}.", "Cards that it leaves out cannot be chosen in nodes.")


def windows(here: Surroundings) -> Iterator[Finding]:
    cards = sum(info.name.startswith("cuda") for info in here.devices)
    if here.system == "Windows" and cards > 1:
        todo = "Start ComfyUI with --cuda-device all; if nodes list one card alone, it hides the others."
        yield _note(f"Windows, and {cards} cards.", todo)


def page_locking(here: Surroundings) -> Iterator[Finding]:
    if here.is_wsl:
        todo = "Give WSL more memory in .wslconfig; what cannot be locked goes through a small buffer, more slowly."
        yield _note("WSL page-locks a part of its memory only.", todo)
    for info in here.devices:
        if info.name != "cpu" and not info.can_pin_host_memory:
            yield _note(f"Host memory cannot be page-locked for {info.name}.", "Copies to it are slower.")


def peer_access(here: Surroundings) -> Iterator[Finding]:
    for reader, source in here.blind_pairs:
        todo = "Its weights take two hops through host memory: let the cpu store them, or use the strategy relay."
        yield _note(f"{reader} cannot read the memory of {source}.", todo)


def links(here: Surroundings) -> Iterator[Finding]:
    for link in here.links:
        if link.width < link.most_width:
            todo = "Look which slot it is in, and what shares its lanes: streaming is as fast as this link."
            yield _warning(f"{link.name} has {link.width} of {link.most_width} PCIe lanes.", todo)
        if link.generation < link.most_generation:
            todo = "Idle cards slow their link down: look again while ComfyUI samples."
            yield _note(f"{link.name} runs PCIe {link.generation} of {link.most_generation}.", todo)


def profile(here: Surroundings) -> Iterator[Finding]:
    if not here.is_profiled and any(info.name != "cpu" for info in here.devices):
        todo = "Run `multigpu profile` once, 20 seconds: auto and predicted times go by published figures until then."
        yield _note("This machine's speeds have not been measured.", todo)


def swap(here: Surroundings) -> Iterator[Finding]:
    if here.system == "Linux" and here.swap_bytes is not None and here.swap_bytes < FEW_SWAP_BYTES:
        what = f"There are {here.swap_bytes / (1 << 30):.0f} GB of swap."
        yield _note(what, "A model larger than free memory ends ComfyUI where there is none: add some if that happens.")


CHECKS: tuple[Check, ...] = (
    versions, comfyui, other_extension, settings, devices, hidden_cards, windows, page_locking, peer_access, links,
    profile, swap,
)  # fmt: skip


def findings(here: Surroundings) -> list[Finding]:
    """All of all checks, the worst first."""
    found = [finding for check in CHECKS for finding in check(here)]
    order = list(Severity)
    return sorted(found, key=lambda finding: -order.index(finding.severity))


def _problem(what: str, todo: str) -> Finding:
    return Finding(Severity.PROBLEM, what, todo)


def _warning(what: str, todo: str) -> Finding:
    return Finding(Severity.WARNING, what, todo)


def _note(what: str, todo: str) -> Finding:
    return Finding(Severity.NOTE, what, todo)


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
