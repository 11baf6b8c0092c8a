"""Beside ComfyUI's own ways, on a real card inside a real ComfyUI: one Flux model, and what core does with less memory.

python benchmarks/gpu_comfyui.py [--fp8] [--fractions 0.5 1.0] [--minutes N] [--tiny] [--simulate] [--json]
    [--keep FILE]

The model first runs resident; then, for each share, ours stores that much in host memory, and core (with DynamicVRAM
and without) is left as much of the card as ours took at its peak: --reserve-vram keeps it from the rest. Every arm is a
server of its own. A step is the difference between a long sampling and a short one, over the difference in steps; peak
memory is what ComfyUI's /system_stats reports, asked all the time. Latents are compared bit for bit with the resident
ones.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from records import Record, report
from rich.console import Console
from safetensors.torch import load_file
from time_limit import TimeLimit

import multigpu
from multigpu.multigpu_core.provisioning import tiny_models
from multigpu.multigpu_core.provisioning.client import ComfyUIClient, Workflow, WorkflowError, WorkflowResult
from multigpu.multigpu_core.provisioning.release import comfyui_folder
from multigpu.multigpu_core.provisioning.server import ComfyUIServer, ServerError, install_custom_node

GIB = 1 << 30
FULL = tiny_models.FluxShape(19, 38, 3072, pooled_dim=768)
TINY = tiny_models.FluxShape()
FILE = "flux.safetensors"
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Arm:
    """One way to run the model: ComfyUI's arguments, and our node's inputs where it is ours."""

    name: str
    arguments: tuple[str, ...] = ()
    split: dict[str, Any] = field(default_factory=dict)
    is_dynamic: bool = False


@dataclass(frozen=True)
class Measured:
    step_seconds: float
    peak_bytes: int
    total_bytes: int
    latent: bytes


@dataclass(frozen=True)
class Bench:
    """Where the files are, which device computes, and how much is sampled."""

    base: Path
    device: str
    environment: dict[str, str]
    pixels: int
    steps: tuple[int, int]
    weight_dtype: str = "default"

    @property
    def is_simulated(self) -> bool:
        return "MULTIGPU_SIMULATE" in self.environment

    def run(self, arm: Arm) -> Measured:
        """Raises ServerError and WorkflowError where the arm does not run here."""
        server = ComfyUIServer(comfyui_folder(), self.base, arguments=arm.arguments, environment=self.environment)
        with server:
            client = server.client
            if arm.is_dynamic and "DynamicVRAM support detected and enabled" not in server.log_text():
                raise ServerError("DynamicVRAM is off here.", "")
            few, many = self.steps
            client.run(self.workflow(arm, few, seed=0))
            seconds, last = {}, None
            with _peak_memory(client) as peak:
                for steps in (few, many):
                    begin = time.perf_counter()
                    last = client.run(self.workflow(arm, steps, seed=1))
                    seconds[steps] = time.perf_counter() - begin
            assert last is not None
            step = (seconds[many] - seconds[few]) / (many - few)
            total = client.get("/system_stats")["devices"][0]["vram_total"]
            return Measured(max(step, 1e-9), peak[0], total, self._latent(last))

    def workflow(self, arm: Arm, steps: int, seed: int) -> Workflow:
        """Samples from a prompt that needs no text encoder, and saves the latent."""
        model = {"unet_name": FILE, "weight_dtype": self.weight_dtype}
        loader = "UNETLoaderDisTorch2MultiGPU" if arm.split else "UNETLoader"
        wires = {"model": ["1", 0], "positive": ["2", 0], "negative": ["2", 0], "latent_image": ["3", 0]}
        sampling = {"seed": seed, "steps": steps, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"}
        size = {"width": self.pixels, "height": self.pixels, "batch_size": 1}
        return {
            "1": {"class_type": loader, "inputs": {**model, **arm.split}},
            "2": {"class_type": "LotusConditioning", "inputs": {}},
            "3": {"class_type": "EmptySD3LatentImage", "inputs": size},
            "4": {"class_type": "KSampler", "inputs": {**sampling, "denoise": 1.0, **wires}},
            "5": {"class_type": "SaveLatent", "inputs": {"samples": ["4", 0], "filename_prefix": "bench"}},
        }

    def _latent(self, result: WorkflowResult) -> bytes:
        (saved,) = result.outputs["5"]["latents"]
        file = self.base / saved["type"] / saved["subfolder"] / saved["filename"]
        return load_file(file)["latent_tensor"].numpy().tobytes()  # type: ignore[no-any-return]


@contextmanager
def _peak_memory(client: ComfyUIClient) -> Iterator[list[int]]:
    """The most bytes that were in use on the server's first device, as a list of one, while the block runs."""
    peak, is_over = [0], threading.Event()

    def ask() -> None:
        while not is_over.wait(POLL_SECONDS):
            device = client.get("/system_stats")["devices"][0]
            peak[0] = max(peak[0], device["vram_total"] - device["vram_free"])

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield peak
    finally:
        is_over.set()
        asking.join()


def write_model(path: Path, shape: tiny_models.FluxShape) -> int:
    """A Flux model in bf16 whose blocks of a kind are all alike, so that it is made quickly; returns its bytes."""
    one = tiny_models.flux_weights(replace(shape, double_blocks=1, single_blocks=1))
    weights = {}
    for name, value in one.items():
        kind, _, rest = name.partition(".0.")
        count = {"double_blocks": shape.double_blocks, "single_blocks": shape.single_blocks}.get(kind)
        names = [f"{kind}.{index}.{rest}" for index in range(count)] if count else [name]
        weights |= dict.fromkeys(names, value)
    tiny_models.write(path, weights, torch.bfloat16)
    return path.stat().st_size


def measure(bench: Bench, model_bytes: int, fractions: list[float], time_limit: TimeLimit) -> Iterator[Record]:
    resident = bench.run(Arm("resident"))
    yield Record("resident: step", resident.step_seconds, "s")
    yield Record("resident: peak memory", resident.peak_bytes, "bytes")
    for fraction in fractions:
        if time_limit.is_over(f"{fraction:.0%} offloaded"):
            continue
        offloaded = int(fraction * model_bytes)
        expert = f"{bench.device},*;cpu,{offloaded}b" if fraction < 1 else f"{bench.device},0b;cpu,*"
        ours = bench.run(Arm("ours", split={"compute_device": bench.device, "expert_mode_allocations": expert}))
        yield from _records(f"{fraction:.0%} offloaded, ours", ours, resident)
        reserve = ("--reserve-vram", f"{max(0, resident.total_bytes - ours.peak_bytes) / GIB:.3f}")
        for arm in (
            Arm("core, DynamicVRAM", reserve, is_dynamic=True),
            Arm("core, without DynamicVRAM", (*reserve, "--disable-dynamic-vram")),
        ):
            if (arm.is_dynamic and bench.is_simulated) or time_limit.is_over(f"{fraction:.0%} offloaded, {arm.name}"):
                continue  # DynamicVRAM needs a real GPU
            try:
                core = bench.run(arm)
            except (ServerError, WorkflowError) as error:
                Console(stderr=True).print(f"{arm.name}: {error}", style="yellow", markup=False)
                continue
            yield from _records(f"{fraction:.0%} offloaded, {arm.name}", core, resident)
            # What is promised: faster at no more memory.
            over = ours.step_seconds / core.step_seconds
            yield Record(f"{fraction:.0%} offloaded, ours over {arm.name}", over, "times", bound=1.0)


def _records(name: str, measured: Measured, resident: Measured) -> Iterator[Record]:
    yield Record(f"{name}: step over the resident one", measured.step_seconds / resident.step_seconds, "times")
    yield Record(f"{name}: peak memory", measured.peak_bytes, "bytes")
    yield Record(f"{name}: latents that differ", float(measured.latent != resident.latent), "")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0", help="the card that computes: ComfyUI's first")
    parser.add_argument("--fp8", action="store_true", help="weights of eight bits, which are cast when they compute")
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.5, 1.0], help="shares in host memory")
    parser.add_argument("--minutes", type=float, help="begin nothing more after so many minutes")
    parser.add_argument("--tiny", action="store_true", help="a small model and few steps: to see that it runs")
    parser.add_argument("--simulate", action="store_true", help="on a simulated accelerator, npu:0")
    parser.add_argument("--json", action="store_true", help="print a list of records instead of a table")
    parser.add_argument("--keep", type=Path, help="write the records, with machine and date, to this file")
    options = parser.parse_args()
    time_limit = TimeLimit(options.minutes)
    with tempfile.TemporaryDirectory(prefix="multigpu-benchmark-") as folder:
        base = Path(folder)
        size = write_model(base / "models" / "diffusion_models" / FILE, TINY if options.tiny else FULL)
        install_custom_node(base, Path(multigpu.__file__).parent, "ComfyUI-MultiGPU")
        bench = Bench(
            base,
            "npu:0" if options.simulate else options.device,
            {"MULTIGPU_SIMULATE": "1x4gb"} if options.simulate else {},
            64 if options.tiny else 1024,
            (1, 3) if options.tiny else (4, 12),
            "fp8_e4m3fn" if options.fp8 else "default",
        )
        records = list(measure(bench, size, options.fractions, time_limit))
    report("Beside ComfyUI's own ways, on a card", records, options.json, options.keep)
