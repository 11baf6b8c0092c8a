"""Checks of `multigpu doctor` that look at the machine: devices, links, memory."""

from __future__ import annotations

from collections.abc import Iterator

from .finding import Check, Finding, note, warning
from .snapshot import Snapshot

GB = 1 << 30
FEW_SWAP_BYTES = 8 * GB
VISIBILITY = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ONEAPI_DEVICE_SELECTOR")


def devices(here: Snapshot) -> Iterator[Finding]:
    for fault in here.device_problems:
        yield warning(fault, "The device is not used: check that its driver matches torch's build.")
    if here.torch and not here.cards:
        todo = "If there is a GPU, install torch's build for it. To simulate two: MULTIGPU_SIMULATE=2x8gb."
        yield note("torch sees no accelerator.", todo)
    elif len(here.cards) == 1:
        yield note(f"There is one accelerator, {here.cards[0].name}.", "Weights can be split between it and the cpu.")


def hidden_cards(here: Snapshot) -> Iterator[Finding]:
    for name in VISIBILITY:
        if here.environ.get(name):
            yield note(f"{name} is {here.environ[name]!r}.", "GPUs that it leaves out cannot be chosen in nodes.")
    arguments = here.server.arguments if here.server is not None else ()
    if "--cuda-device" in arguments[:-1] and (chosen := arguments[arguments.index("--cuda-device") + 1]) != "all":
        what = f"The running ComfyUI was started with --cuda-device {chosen}."
        yield note(what, "That hides other GPUs from nodes: leave it out, or use --cuda-device all.")


def windows(here: Snapshot) -> Iterator[Finding]:
    cards = sum(info.name.startswith("cuda") for info in here.devices)
    if here.system == "Windows" and cards > 1:
        todo = "Start ComfyUI with --cuda-device all; if nodes list only one GPU, ComfyUI hides the others."
        yield note(f"Windows, and {cards} GPUs.", todo)


def pinning(here: Snapshot) -> Iterator[Finding]:
    slow = "Weights that cannot be pinned go through a small buffer, which is slower."
    if here.is_wsl:
        yield note("WSL can pin only a part of its memory.", f"Give WSL more memory in .wslconfig. {slow}")
    if here.system == "Windows" and here.cards:
        todo = f"Leave page_locked_fraction in plugins.toml at 0.5, or lower it if copies fail. {slow}"
        yield note("Windows allows at most about half of the memory to be pinned for GPUs.", todo)
    for info in here.cards:
        if not info.can_pin_host_memory:
            yield note(f"Host memory cannot be pinned for {info.name}.", "Copies to it are slower.")


def peer_access(here: Snapshot) -> Iterator[Finding]:
    for reader, source in here.blind_pairs:
        todo = "Its weights take two hops through host memory: store them on the cpu, or use the strategy relay."
        yield note(f"{reader} cannot read the memory of {source}.", todo)


def links(here: Snapshot) -> Iterator[Finding]:
    for card in here.nvidia_cards:
        if card.width < card.most_width:
            todo = "Check which slot it is in and what shares its lanes: streaming is only as fast as this link."
            yield warning(f"{card.name} has {card.width} of {card.most_width} PCIe lanes.", todo)
        if card.generation < card.most_generation:
            todo = "Idle GPUs slow their link down: check again while ComfyUI samples."
            yield note(f"{card.name} runs PCIe {card.generation} of {card.most_generation}.", todo)


def resizable_bar(here: Snapshot) -> Iterator[Finding]:
    for card in here.nvidia_cards:
        if 0 < card.window_bytes < card.memory_bytes // 2:
            part, whole = _gb(card.window_bytes), _gb(card.memory_bytes)
            what = f"{card.name}: {part} of its {whole} can be accessed over PCIe at a time."
            todo = (
                "Switch on Resizable BAR (Above 4G Decoding) in the firmware. Copies that the GPU makes itself work "
                "without it; other GPUs may be unable to read its memory."
            )
            yield note(what, todo)


def profile(here: Snapshot) -> Iterator[Finding]:
    if not here.is_profiled and here.cards:
        todo = "Run `multigpu profile` once (20 seconds): until then auto and predicted times use published figures."
        yield note("This machine's speeds have not been measured.", todo)


def memory(here: Snapshot) -> Iterator[Finding]:
    if here.largest_model is not None and here.free_bytes is not None:
        name, size = here.largest_model
        room = here.free_bytes + (here.free_swap_bytes or 0)
        if size > room:
            what = f"{name} has {_gb(size)}, and memory and swap have {_gb(room)} free."
            todo = "A split model is first read into system memory: free some, add swap, or use a quantised file."
            yield warning(what, todo)


def swap(here: Snapshot) -> Iterator[Finding]:
    if here.system == "Linux" and here.swap_bytes is not None and here.swap_bytes < FEW_SWAP_BYTES:
        todo = "Without swap, a model larger than free memory ends ComfyUI: add some if that happens."
        yield note(f"There are {here.swap_bytes / GB:.0f} GB of swap.", todo)


CHECKS: tuple[Check, ...] = (
    devices, hidden_cards, windows, pinning, peer_access, links, resizable_bar, profile, memory, swap,
)  # fmt: skip


def _gb(size: int) -> str:
    return f"{size / GB:.1f} GB" if size >= GB else f"{size / (1 << 20):.0f} MB"
