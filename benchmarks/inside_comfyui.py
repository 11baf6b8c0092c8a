"""A real ComfyUI in the process of a benchmark, on simulated accelerators, with a tiny Flux model to load."""

from __future__ import annotations

import asyncio
import importlib
import logging
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from multigpu.multigpu_core.provisioning import tiny_models
from multigpu.multigpu_core.provisioning.release import comfyui_folder
from multigpu.testing import GB, SimulatedMachine, appear_to_comfyui, simulate

MODEL = {"unet_name": "flux.safetensors", "weight_dtype": "default"}
SHAPE = tiny_models.FluxShape()


@dataclass
class Inside:
    """The running ComfyUI; `start` brings our framework into it."""

    machine: SimulatedMachine
    nodes: Any
    framework: Any = None

    def start(self) -> float:
        """Start our framework; returns the seconds that it took, its imports included."""
        begin = time.perf_counter()
        self.framework = importlib.import_module("multigpu.multigpu_core.comfy.startup").start()
        seconds = time.perf_counter() - begin
        self.nodes.NODE_CLASS_MAPPINGS.update(self.framework.NODE_CLASS_MAPPINGS)
        return seconds

    def stop(self) -> None:
        """Take our framework and its nodes out again."""
        self.framework.stop()
        for node_id in self.framework.NODE_CLASS_MAPPINGS:
            del self.nodes.NODE_CLASS_MAPPINGS[node_id]

    def load_packs(self, folders: Iterable[Path]) -> int:
        """Load ComfyUI's own extra nodes, and node packs; returns how many of the packs could be imported."""
        server = importlib.import_module("server").PromptServer
        server(asyncio.new_event_loop())  # some packs ask for it
        asyncio.run(self.nodes.init_builtin_extra_nodes())
        load = self.nodes.load_custom_node
        loaded = sum(asyncio.run(load(str(folder), module_parent="custom_nodes")) for folder in folders)
        del server.instance
        return loaded

    def whole(self) -> Any:
        return self.nodes.UNETLoader().load_unet(**MODEL)[0]

    def split(self, expert: str) -> Any:
        node = self.nodes.NODE_CLASS_MAPPINGS["UNETLoaderDisTorch2MultiGPU"]()
        return node.load(**MODEL, compute_device="npu:0", expert_mode_allocations=expert)[0]

    def sample(self, model: Any, steps: int = 1) -> torch.Tensor:
        """A latent from fixed noise and a made-up prompt."""
        generator = torch.Generator().manual_seed(3)
        pooled = torch.randn(1, SHAPE.pooled_dim, generator=generator)
        prompt = [[torch.randn(1, 8, SHAPE.context_dim, generator=generator), {"pooled_output": pooled}]]
        latent = {"samples": torch.zeros(1, SHAPE.latent_channels, 8, 8)}
        result = self.nodes.common_ksampler(model, 5, steps, 1.0, "euler", "simple", prompt, prompt, latent)
        samples: torch.Tensor = result[0]["samples"]
        return samples


def enter_comfyui(sizes: Sequence[int] = (4 * GB, 2 * GB)) -> Inside:
    """Import the ComfyUI that tests use, with simulated accelerators of `sizes` bytes."""
    machine = simulate(sizes)
    appear_to_comfyui(machine)
    sys.path.insert(0, str(comfyui_folder()))
    sys.argv = ["main.py"]
    logging.disable(logging.INFO)
    importlib.import_module("utils.extra_config")  # as main.py does, before a `utils` of comfy's own hides it
    importlib.import_module("server")
    nodes = importlib.import_module("nodes")
    folder = Path(tempfile.mkdtemp(prefix="multigpu-benchmark-"))
    tiny_models.write(folder / "flux.safetensors", tiny_models.flux_weights(SHAPE), torch.bfloat16)
    importlib.import_module("folder_paths").add_model_folder_path("diffusion_models", str(folder))
    torch.inference_mode().__enter__()  # as ComfyUI's executor runs its nodes
    return Inside(machine, nodes)
