"""Many prompts in a real ComfyUI, over HTTP, with all that users do to it in between: what fails, and what grows.

python benchmarks/soak.py [--json] [--prompts N] [--seed N] [--keep FILE]

Three models in random splits, with and without a LoRA, keep_loaded and eject_models; some prompts are interrupted, and
some are followed by ComfyUI's /free or by the panel's Unload of a model, also tried while prompts run. Every
picture has to be the one that its model, LoRA and seed gave before. At checkpoints everything is freed: no device may
hold a byte then. Memory is compared from the first third to the end.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
import urllib.error
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from records import Record, report

from multigpu.multigpu_core.cli.demo.models import SHAPE
from multigpu.multigpu_core.provisioning import tiny_models
from multigpu.multigpu_core.provisioning.client import NodeProgress, WorkflowError
from multigpu.multigpu_core.provisioning.prompt_pack import PROMPT_PACK
from multigpu.multigpu_core.provisioning.release import comfyui_folder
from multigpu.multigpu_core.provisioning.server import ComfyUIServer, install_custom_node

MODELS = ("one", "two", "three")
PLACES: tuple[dict[str, Any], ...] = (
    {"expert_mode_allocations": "npu:0,20%;npu:1,50%;cpu,30%"},
    {"expert_mode_allocations": "npu:1,60%;cpu,40%", "compute_device": "npu:1"},
    {"expert_mode_allocations": "npu:0,50%;npu:1,50%", "strategy": "relay"},
    {"expert_mode_allocations": "auto"},
    {"virtual_vram_gb": 0.004, "donor_device": "npu:1,cpu"},
    {"device": "npu:1"},
)
INTERRUPTED, FREED, UNLOADED, WITH_LORA = 0.1, 0.15, 0.3, 0.5
NOTHING_GROWS_BY = 0.03
"""Of the server's memory. The allocator of the C library does not give all back that it got."""
NOOP_GROWS_BY = 1.5
"""Times on a machine that others use as well."""
PROBE_PACK = """
import gc, torch
from pathlib import Path

class SoakProbe:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"collect": ("BOOLEAN",)}})
    IS_CHANGED = classmethod(lambda cls, collect: float("nan"))
    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "probe"
    def probe(self, collect):
        if collect:
            gc.collect()
        devices = [torch.npu.memory_allocated(index) for index in range(torch.npu.device_count())]
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return {"ui": {"devices": devices, "resident": [pages * 4096]}}

NODE_CLASS_MAPPINGS = {"SoakProbe": SoakProbe}
"""


@dataclass
class Soak:
    """The server, what was seen of it, and the pictures that its models make."""

    server: ComfyUIServer
    chance: random.Random
    pictures: dict[tuple[str, bool, int], bytes] = field(default_factory=dict)
    resident_bytes: list[int] = field(default_factory=list)
    held_bytes: list[int] = field(default_factory=list)
    noop_seconds: list[float] = field(default_factory=list)
    interrupted: int = 0
    unloaded: int = 0

    def prompt(self) -> None:
        """One prompt, and perhaps what a user does after it.

        Raises:
            WorkflowError: it failed, and not because it was interrupted.
            AssertionError: its picture is another one than before.
        """
        model, seed = self.chance.choice(MODELS), self.chance.randrange(3)
        has_lora = self.chance.random() < WITH_LORA
        is_interrupted = self.chance.random() < INTERRUPTED
        is_unloaded_meanwhile = self.chance.random() < UNLOADED

        def meanwhile(progress: NodeProgress) -> None:
            if progress.class_type == "KSampler" and progress.value:
                if is_unloaded_meanwhile:
                    self._unload()
                if is_interrupted:
                    self.server.client.post("/interrupt", {})

        try:
            result = self.server.client.run(self._workflow(model, has_lora, seed), meanwhile)
        except WorkflowError as error:
            if not is_interrupted or "interrupted" not in str(error):
                raise
            self.interrupted += 1
        else:
            (picture,) = result.image_files()
            expected = self.pictures.setdefault((model, has_lora, seed), picture.read_bytes())
            assert picture.read_bytes() == expected, f"{model}, LoRA {has_lora}, seed {seed}: another picture"
        deeds = [self._unload] * (self.chance.random() < UNLOADED) + [self._free] * (self.chance.random() < FREED)
        for deed in self.chance.sample(deeds, len(deeds)):
            deed()

    def _free(self) -> None:
        self.server.client.post("/free", {"unload_models": True, "free_memory": self.chance.random() < 0.5})

    def _unload(self) -> None:
        """Unload one of the models, as the panel does: one that is gone, or that a prompt may use, is refused."""
        models = [model["ours"] for model in self.server.client.get("/multigpu/state")["models"] if model["ours"]]
        if not models:
            return
        try:
            self.server.client.post("/multigpu/unload", {"key": self.chance.choice(models)["key"]})
            self.unloaded += 1
        except urllib.error.HTTPError as refusal:
            if refusal.code not in (404, 409):
                raise

    def checkpoint(self) -> None:
        """Free everything, and see what is left."""
        self.server.client.post("/free", {"unload_models": True, "free_memory": True})
        deadline = time.monotonic() + 10
        while self.server.client.get("/multigpu/models") and time.monotonic() < deadline:
            time.sleep(0.05)
        self.server.client.post("/history", {"clear": True})  # ComfyUI keeps ten thousand
        for picture in (self.server.base_directory / "output").glob("*.png"):  # no cached result names it any more
            picture.unlink()
        self._probe()  # what the last prompt left on the way out
        seen = self._probe(collect=True)
        self.resident_bytes.append(seen["resident"][0])
        self.held_bytes.append(sum(seen["devices"]))
        for _ in range(5):
            begin = time.perf_counter()
            self._probe()
            self.noop_seconds.append(time.perf_counter() - begin)

    def _probe(self, *, collect: bool = False) -> Any:
        result = self.server.client.run({"probe": {"class_type": "SoakProbe", "inputs": {"collect": collect}}})
        return result.outputs["probe"]

    def _workflow(self, model: str, has_lora: bool, seed: int) -> dict[str, Any]:
        place = dict(self.chance.choice(PLACES))
        loader = "UNETLoaderMultiGPU" if "device" in place else "UNETLoaderDisTorch2MultiGPU"
        if "device" not in place:
            place = {"compute_device": "npu:0", "virtual_vram_gb": 0.0, "donor_device": "cpu", **place}
            place |= {name: self.chance.random() < 0.3 for name in ("keep_loaded", "eject_models")}
        lora = {"model": ["load", 0], "lora_name": f"{model}.safetensors", "strength_model": 0.8}
        sampling = {
            "seed": seed,
            "steps": 2,
            "cfg": 1.0,
            "sampler_name": "euler",
            "scheduler": "simple",
            "denoise": 1.0,
        }
        wires = {"model": ["lora" if has_lora else "load", 0], "positive": ["prompt", 0], "negative": ["prompt", 0]}
        nodes: dict[str, tuple[str, dict[str, Any]]] = {
            "load": (loader, {"unet_name": f"{model}.safetensors", "weight_dtype": "default", **place}),
            "prompt": ("MadeUpPrompt", {}),
            "latent": ("EmptySD3LatentImage", {"width": 64, "height": 64, "batch_size": 1}),
            "sample": ("KSampler", {**sampling, **wires, "latent_image": ["latent", 0]}),
            "vae": ("VAELoader", {"vae_name": "vae.safetensors"}),
            "decode": ("VAEDecode", {"samples": ["sample", 0], "vae": ["vae", 0]}),
            "save": ("SaveImage", {"images": ["decode", 0], "filename_prefix": "soak"}),
        }
        if has_lora:
            nodes["lora"] = ("LoraLoaderModelOnly", lora)
        return {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()}


def write_models(folder: Path) -> None:
    for seed, name in enumerate(MODELS):
        flux = tiny_models.flux_weights(SHAPE, seed=seed)
        tiny_models.write(folder / "diffusion_models" / f"{name}.safetensors", flux)
        tiny_models.write(folder / "loras" / f"{name}.safetensors", tiny_models.lora_weights(flux, ("attn.qkv",)))
    tiny_models.write(folder / "vae" / "vae.safetensors", tiny_models.vae_weights())


def soak(prompts: int, seed: int) -> Soak:
    """Run so many prompts, with about thirty checkpoints in between."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        install_custom_node(base, Path(__file__).parents[1], "multigpu-core")
        (base / "custom_nodes" / "prompt.py").write_text(PROMPT_PACK)
        (base / "custom_nodes" / "soak.py").write_text(PROBE_PACK)
        write_models(base / "models")
        environment = {"MULTIGPU_SIMULATE": "4gb,2gb"}
        arguments = ("--disable-metadata",)
        with ComfyUIServer(comfyui_folder(), base, arguments=arguments, environment=environment) as server:
            run = Soak(server, random.Random(seed))
            for number in range(prompts):
                run.prompt()
                if number % max(3, prompts // 30) == 0:
                    run.checkpoint()
            run.checkpoint()
            return run


def measure(prompts: int, seed: int) -> Iterator[Record]:
    run = soak(prompts, seed)
    warm = len(run.resident_bytes) // 3
    first, last = run.resident_bytes[warm], run.resident_bytes[-1]
    noop_first, noop_last = run.noop_seconds[5 * warm :][:25], run.noop_seconds[-25:]
    latency = min(noop_last) / min(noop_first)  # what other work on the machine adds is left out
    yield Record("prompts without a failure, each with the picture of before", prompts, "prompts")
    yield Record("of them interrupted", run.interrupted, "prompts")
    yield Record("models unloaded from the panel", run.unloaded, "models")
    yield Record("most bytes held by any device when all is freed (must be 0)", max(run.held_bytes), "bytes")
    yield Record("memory of the server: growth after a third", last / first - 1, "of it", NOTHING_GROWS_BY)
    yield Record("memory of the server at the end", last, "bytes")
    yield Record("latency of a no-op prompt: end over a third", latency, "times", NOOP_GROWS_BY)
    for index, size in enumerate(run.resident_bytes):
        yield Record(f"memory of the server at checkpoint {index}", size, "bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print a list of records instead of a table")
    parser.add_argument("--prompts", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="write the records, with machine and date, to this file")
    options = parser.parse_args()
    report("Soak", list(measure(options.prompts, options.seed)), options.json, options.keep)
