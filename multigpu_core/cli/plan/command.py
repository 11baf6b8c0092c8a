"""`multigpu plan FILE`: where a model's weights would be stored and how long a step would take, from its header."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from multigpu.multigpu_core.cli.in_words import in_words
from multigpu.multigpu_core.cli.plugins_here import PluginsHere
from multigpu.multigpu_core.strategies.strategy import Strategy

from .described_machine import described_machine, sizes_by_device

if TYPE_CHECKING:
    from multigpu.multigpu_core.allocation import AllocationPlan, AllocationRequest, Inventory, StepPrediction
    from multigpu.multigpu_core.devices import DeviceInfo, DeviceRegistry, HardwareProfile
    from multigpu.multigpu_core.plugins import PluginManager

DOES_NOT_FIT = 1
WRONG_INPUT = 2


def plan(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="A .safetensors or .gguf file; its weights are not read.")],
    device: Annotated[str, typer.Option(help="The compute device; by default the first accelerator.")] = "",
    expert: Annotated[str, typer.Option(help="An allocation string; by default auto, or --virtual-vram.")] = "",
    virtual_vram: Annotated[float, typer.Option(help="Gigabytes to offload from the compute device.")] = 0.0,
    donors: Annotated[str, typer.Option(help="Devices to offload to, separated by commas.")] = "cpu",
    strategy: Annotated[str, typer.Option(help="How blocks are chosen.")] = Strategy.INTERLEAVE.name,
    weight_dtype: Annotated[str, typer.Option(help="The node's weight_dtype: default, fp8_e4m3fn, ….")] = "default",
    fit: Annotated[list[str] | None, typer.Option(help="Memory to leave free, as cuda:0=2gb; repeatable.")] = None,
    machine: Annotated[
        list[str] | None, typer.Option(help="Plan for other devices, as cuda:0=24gb; repeatable.")
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Show all strategies side by side.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")] = False,
) -> None:
    """Plan a split before loading: the table and the string that a split node takes.

    Exit 0: it fits; 1: no requested plan fits; 2: invalid usage.
    """
    # Imports torch, which the other commands do without.
    from multigpu.multigpu_core.allocation import AllocationWidgets, PlanError, request_from_widgets
    from multigpu.multigpu_core.allocation.formats.header_error import HeaderError
    from multigpu.multigpu_core.allocation.inventory.as_loaded import LoadedAs, inventory_as_loaded
    from multigpu.multigpu_core.allocation.inventory.checkpoint_parts import CheckpointPartError
    from multigpu.multigpu_core.allocation.language.errors import AllocationError
    from multigpu.multigpu_core.devices import DeviceError

    try:
        here = ctx.ensure_object(PluginsHere)
        planned_for = _Machine.described(machine) if machine else _Machine.of(here.registry)
        reserve = sizes_by_device(fit or (), "--fit")
        planned_for.refuse_unknown(reserve)
        widgets = AllocationWidgets(
            device or planned_for.first,
            virtual_vram,
            donors,
            expert or ("" if virtual_vram else "auto"),
            here.strategies.named(strategy),
        )
        inventory = inventory_as_loaded([file], LoadedAs(widgets.compute_device, weight_dtype), here.formats)
        found = [
            _Outcome.of(here.manager, planned_for, reserve, inventory, request_from_widgets(wished, planned_for.names))
            for wished in ([replace(widgets, strategy=each) for each in here.strategies] if compare else [widgets])
        ]
    except (AllocationError, DeviceError, HeaderError, CheckpointPartError, OSError, ValueError) as error:
        if isinstance(error, PlanError):
            raise
        typer.echo(f"error: {in_words(error)}", err=True)
        raise typer.Exit(WRONG_INPUT) from None
    if as_json:
        typer.echo(json.dumps([each.report() for each in found] if compare else found[0].report(), indent=2))
    elif compare:
        _print_comparison(found)
    else:
        typer.echo(found[0].text())
    raise typer.Exit(DOES_NOT_FIT if all(outcome.plan is None for outcome in found) else 0)


@dataclass(frozen=True)
class _Machine:
    devices: list[DeviceInfo]
    profile: HardwareProfile

    @classmethod
    def of(cls, registry: DeviceRegistry) -> _Machine:
        from multigpu.multigpu_core.devices import known_profile

        return cls(list(registry.devices()), known_profile(registry))

    @classmethod
    def described(cls, options: list[str]) -> _Machine:
        from multigpu.multigpu_core.devices import published_profile_of

        devices = described_machine(options)
        return cls(devices, published_profile_of(info.name for info in devices))

    @property
    def names(self) -> list[str]:
        return [info.name for info in self.devices]

    def refuse_unknown(self, reserve: Iterable[str]) -> None:
        for name in reserve:
            if name not in self.names:
                known = ", ".join(self.names)
                raise typer.BadParameter(f"There is no device {name!r}; there are {known}.", param_hint="--fit")

    @property
    def first(self) -> str:
        return next((name for name in self.names if name != "cpu"), "cpu")


@dataclass(frozen=True)
class _Outcome:
    """The outcome of one request: a plan with its prediction, or why there is none."""

    request: AllocationRequest
    plan: AllocationPlan | None
    prediction: StepPrediction | None
    profile: HardwareProfile | None = None
    why_not: str = ""
    reserved_bytes: int = 0
    """Of the compute device, left for inference."""

    @classmethod
    def of(
        cls,
        plugins: PluginManager,
        machine: _Machine,
        reserve: dict[str, int],
        inventory: Inventory,
        request: AllocationRequest,
    ) -> _Outcome:
        from multigpu.multigpu_core.allocation import AllocationMode, PlanError, expected_step
        from multigpu.multigpu_core.allocation.inference_reserve import inference_reserve

        compute = next(info for info in machine.devices if info.name == request.compute_device)
        if request.mode is AllocationMode.AUTO and compute.name != "cpu":
            reserve = {compute.name: inference_reserve(compute.total_bytes), **reserve}
        try:
            found = plugins.plan_allocation(
                inventory=inventory,
                request=request,
                devices=machine.devices,
                reserve_bytes=reserve,
                profile=machine.profile,
                draft=True,
            )
        except PlanError as error:
            return cls(request, None, None, why_not=str(error))
        reserved = reserve.get(compute.name, 0)
        return cls(request, found, expected_step(found, machine.profile), machine.profile, reserved_bytes=reserved)

    @property
    def predicted(self) -> tuple[float, ...]:
        """Seconds of a step, and at best; none on simulated devices."""
        return (self.prediction.step_seconds, self.prediction.limit_seconds) if self.prediction is not None else ()

    @property
    def string(self) -> str:
        return self.plan.expert_string if self.plan is not None else self.why_not

    def text(self) -> str:
        from multigpu.multigpu_core.allocation import plan_table
        from multigpu.multigpu_core.allocation.language.amounts import readable_bytes

        if self.plan is None:
            return f"Does not fit: {self.why_not}"
        lines = [plan_table(self.plan, self.prediction)]
        if self.prediction is None:
            lines.append("  no step time is predicted for simulated devices")
        if self.reserved_bytes:
            device, size = self.request.compute_device, readable_bytes(self.reserved_bytes)
            lines.append(f"  {size} of {device} left for inference; --fit {device}=SIZE leaves another amount")
        return "\n".join([*lines, *self.plan.warnings])

    def report(self) -> dict[str, Any]:
        from multigpu.multigpu_core.allocation.planner.plan_report import plan_report

        if self.plan is None:
            return {"strategy": self.request.strategy.name, "fits": False, "reason": self.why_not}
        return {
            **plan_report(self.plan, self.prediction),
            "staging_trade_off": [
                {"staging_bytes": size, "predicted_seconds": seconds} for size, seconds in self.trade_off()
            ],
            "reserved_bytes": self.reserved_bytes,
        }

    def trade_off(self) -> list[tuple[int, float]]:
        """Bytes kept for streaming, and the seconds of a step with them; none where nothing is predicted."""
        from multigpu.multigpu_core.allocation.planner.staging_choice import trade_off

        if self.plan is None or self.prediction is None or self.profile is None:
            return []
        return list(trade_off(self.plan, self.profile))


def _print_comparison(outcomes: list[_Outcome]) -> None:
    console = Console()
    console.print(_comparison(outcomes))
    assumed = dict.fromkeys(each.prediction.assumes for each in outcomes if each.prediction is not None)
    for name in filter(None, assumed):
        console.print(f"assumes {name}; measure to replace", soft_wrap=True, markup=False, highlight=False)
    streaming = ((each.plan, steps) for each in outcomes if each.plan is not None and (steps := each.trade_off()))
    for plan, steps in islice(streaming, 1):
        console.print(_trade_off(plan, steps))
    for outcome in outcomes:
        console.print(f"{outcome.request.strategy.name}: {outcome.string}", soft_wrap=True, markup=False)


def _comparison(outcomes: list[_Outcome]) -> Table:
    from multigpu.multigpu_core.allocation.language.amounts import readable_bytes

    table = Table(title="The same request with each strategy")
    for heading in ("Strategy", "A step", "At best", "Computing device", "Elsewhere"):
        table.add_column(heading, justify="left" if heading == "Strategy" else "right")
    for outcome in outcomes:
        if outcome.plan is None:
            table.add_row(outcome.request.strategy.name, "does not fit")
            continue
        stored = outcome.plan.compute_bytes + outcome.plan.staging_bytes
        elsewhere = sum(outcome.plan.bytes_by_device.values()) - outcome.plan.compute_bytes
        seconds = [f"{each:.3g} s" for each in outcome.predicted] or ["none", "none"]
        sizes = (readable_bytes(stored), readable_bytes(elsewhere))
        name = outcome.request.strategy.name
        if outcome.plan.strategy != outcome.request.strategy:
            name += f", better as {outcome.plan.strategy.name}"
        table.add_row(name, *seconds, *sizes)
    return table


def _trade_off(plan: AllocationPlan, steps: Iterable[tuple[int, float]]) -> Table:
    """What a step would take with more and with less memory kept for streaming."""
    from multigpu.multigpu_core.allocation.language.amounts import readable_bytes

    table = Table(title=f"{plan.strategy.name}: memory against time")
    for heading in ("Reserved for streaming", "A step", ""):
        table.add_column(heading, justify="right" if heading else "left")
    for size, seconds in steps:
        table.add_row(readable_bytes(size), f"{seconds:.3g} s", "chosen" if size == plan.staging_bytes else "")
    return table
