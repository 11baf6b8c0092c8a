"""`multigpu verify FILE`: is the split model's output that of one device, bit for bit, on this machine?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from multigpu.multigpu_core.cli.comfyui_jobs import ComfyUIJobError, Job, done_in, some_comfyui
from multigpu.multigpu_core.cli.in_words import in_words
from multigpu.multigpu_core.cli.plugins_here import PluginsHere
from multigpu.multigpu_core.strategies.strategy import Strategy

from .report import is_equal, print_report

if TYPE_CHECKING:
    from multigpu.multigpu_core.allocation import AllocationWidgets
    from multigpu.multigpu_core.devices import DeviceRegistry

DIFFERS = 1
WRONG_INPUT = 2
HALF = 50
GGUF_PACK = "ComfyUI-GGUF"


class _CannotVerifyError(ValueError):
    """The request cannot be verified here; the message says why and what to do."""


def verify(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="A diffusion model: .safetensors, or .gguf with ComfyUI-GGUF.")],
    device: Annotated[str, typer.Option(help="The compute device; by default the first accelerator.")] = "",
    expert: Annotated[
        str, typer.Option(help="An allocation string; by default half of the weights are on the donors.")
    ] = "",
    virtual_vram: Annotated[float, typer.Option(help="Gigabytes to offload from the compute device.")] = 0.0,
    donors: Annotated[str, typer.Option(help="Devices to offload to, separated by commas.")] = "cpu",
    strategy: Annotated[str, typer.Option(help="How blocks are chosen.")] = Strategy.INTERLEAVE.name,
    steps: Annotated[int, typer.Option(min=2, help="Sampling steps; the first warms up and is not timed.")] = 3,
    size: Annotated[int, typer.Option(min=64, help="The picture's side in pixels.")] = 512,
    comfyui: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="ComfyUI's folder; by default this copy's, else the demo's."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")] = False,
) -> None:
    """Sample a model whole and split, in ComfyUI, and compare: numbers, seconds per step, memory.

    Noise and prompt are made up, the same for both. Exit 0: equal bit for bit; 1: they differ; 2: invalid usage.
    """
    # Imports torch, which the other commands do without.
    from multigpu.multigpu_core.allocation import AllocationWidgets
    from multigpu.multigpu_core.allocation.formats.header_error import HeaderError
    from multigpu.multigpu_core.allocation.language.errors import AllocationError
    from multigpu.multigpu_core.devices import DeviceError

    try:
        here = ctx.ensure_object(PluginsHere)
        registry = here.registry
        first = _first_accelerator(registry)
        compute = registry.resolve(device) if device else first
        widgets = AllocationWidgets(compute, virtual_vram, donors, expert, here.strategies.named(strategy))
        widgets = _or_half(widgets, registry)
        _refuse_early(file, widgets, here)
        home = some_comfyui(comfyui)
        trial = {"compute_device": compute, "split": _inputs(widgets), "steps": steps, "size_pixels": size}
        job = Job("verify", {"file": str(file.resolve()), "trial": trial}, _packs(file, home))
        _say_if_large(file, registry.free_bytes("cpu"))
        with Console(stderr=True).status(f"Sampling {file.name} whole and split, in {home}"):
            found = done_in(home, job)
    except (AllocationError, DeviceError, HeaderError, ComfyUIJobError, OSError, ValueError) as error:
        typer.echo(f"error: {in_words(error)}", err=True)
        raise typer.Exit(WRONG_INPUT) from None
    if as_json:
        typer.echo(json.dumps({"equal": is_equal(found), **found}, indent=2))
    else:
        print_report(file.name, found, Console())
    raise typer.Exit(0 if is_equal(found) else DIFFERS)


def _first_accelerator(registry: DeviceRegistry) -> str:
    for name in registry.names():
        if name != "cpu":
            return name
    raise _CannotVerifyError(
        "There is no accelerator, so nothing to split between: set MULTIGPU_SIMULATE=2x8gb to simulate two."
    )


def _or_half(widgets: AllocationWidgets, registry: DeviceRegistry) -> AllocationWidgets:
    """What was asked for; where that is nothing, half of the weights stay and the donors share the other half."""
    from dataclasses import replace

    from multigpu.multigpu_core.allocation.language.parser import parse_donors
    from multigpu.multigpu_core.allocation.language.source_span import SourceSpan

    if widgets.expert.strip() or widgets.virtual_vram_gb:
        return widgets
    donors = parse_donors(SourceSpan.of(str(widgets.donors), "Donor device"), registry.names())
    shares = [f"{widgets.compute_device},{HALF}%", *(f"{donor},{HALF / len(donors):g}%" for donor in donors)]
    return replace(widgets, expert=";".join(shares))


def _refuse_early(file: Path, widgets: AllocationWidgets, here: PluginsHere) -> None:
    """What is wrong and needs no ComfyUI to be seen: an allocation, or a file that holds no model."""
    from multigpu.multigpu_core.allocation import request_from_widgets
    from multigpu.multigpu_core.allocation.inventory.of_file import inventory_of_file

    request = request_from_widgets(widgets, here.registry.names())
    if request.compute_device != widgets.compute_device:
        raise _CannotVerifyError(
            f"{request.compute_device} is the compute device in that string: use --device {request.compute_device}."
        )
    inventory_of_file(file, formats=here.formats)


def _say_if_large(file: Path, free_bytes: int) -> None:
    """Warn of a file that is read into memory and is larger than what is free there."""
    from multigpu.multigpu_core.allocation import readable_bytes

    size = file.stat().st_size
    if size > free_bytes:
        typer.echo(
            f"warning: {file.name} has {readable_bytes(size)}, and {readable_bytes(free_bytes)} of system memory are "
            "free: the system may swap, or end ComfyUI. Close other programs first.",
            err=True,
        )


def _inputs(widgets: AllocationWidgets) -> dict[str, Any]:
    return {
        "virtual_vram_gb": widgets.virtual_vram_gb,
        "donor_device": widgets.donors,
        "expert_mode_allocations": widgets.expert,
        "strategy": widgets.strategy.name,
    }


def _packs(file: Path, comfyui: Path) -> list[Path]:
    """The packs without which ComfyUI cannot read the file."""
    from multigpu.multigpu_core.plugins import pack_folders, plain_name

    if file.suffix.lower() != ".gguf":
        return []
    pack = pack_folders([comfyui / "custom_nodes"]).get(plain_name(GGUF_PACK))
    if pack is None:
        raise _CannotVerifyError(
            f"{file.name} needs the node pack {GGUF_PACK}, which {comfyui / 'custom_nodes'} lacks. "
            "Name a ComfyUI that has it: --comfyui PATH."
        )
    return [pack]
