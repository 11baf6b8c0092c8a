"""What keep_loaded saves in the usual workflow of three models, prompt after prompt: bytes moved, and virtual seconds.

python benchmarks/keep.py [--json] [--quick]

Text encoder and diffusion model have the proportions of T5 and Flux, the VAE is larger than a real one. Every prompt
has a new text, and frees all models after the encoding, as workflows for small cards do. The diffusion model is split;
its node keeps it, or does not. Loading alone is counted, not computing.
"""

from __future__ import annotations

import gc
import importlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from inside_comfyui import MODEL, Inside, enter_comfyui
from records import Record, main

from multigpu.multigpu_core.devices import HardwareProfile, LinkSpeed
from multigpu.multigpu_core.provisioning import tiny_models
from multigpu.testing import ClockSettings

PROMPTS = 5
DIFFUSION_GB = 23.8
"""Of Flux in bfloat16."""
LINK_BYTES_PER_SECOND = 25e9
SPLIT = "npu:0,50%;npu:1,50%"
SMALLER = {"text encoder": tiny_models.FluxShape(2, 2), "vae": tiny_models.FluxShape(1, 1, context_dim=64)}


def measure(prompts: int = PROMPTS) -> Iterator[Record]:
    inside = enter_comfyui()
    inside.start()
    folder = Path(importlib.import_module("folder_paths").get_folder_paths("diffusion_models")[-1])
    for name, shape in SMALLER.items():
        tiny_models.write(folder / f"{name}.safetensors", tiny_models.flux_weights(shape))
    usual, kept = _run(inside, prompts, keep_loaded=False), _run(inside, prompts, keep_loaded=True)
    for name, (size, seconds) in {"as usual": usual, "kept": kept}.items():
        yield Record(f"{name}: moved in {prompts} prompts", size, "bytes")
        yield Record(f"{name}: virtual time for that", seconds, "s")
    yield Record("bytes that are still moved where the diffusion model is kept", kept[0] / usual[0], "of all", 0.5)
    yield Record("virtual time that is still spent", kept[1] / usual[1], "of all", 0.5)


def _run(inside: Inside, prompts: int, *, keep_loaded: bool) -> tuple[int, float]:
    """Bytes and virtual seconds of all loads of the prompts after the first."""
    mm = importlib.import_module("comfy.model_management")
    loader = inside.nodes.NODE_CLASS_MAPPINGS["UNETLoaderDisTorch2MultiGPU"]()
    split = {"compute_device": "npu:0", "expert_mode_allocations": SPLIT, "keep_loaded": keep_loaded}
    (diffusion,) = loader.load(**MODEL, **split)
    encoder, vae = (
        inside.nodes.UNETLoader().load_unet(f"{name}.safetensors", MODEL["weight_dtype"])[0] for name in SMALLER
    )
    size = sum(weight.nbytes for weight in diffusion.model.state_dict().values())
    rate = LINK_BYTES_PER_SECOND * size / (DIFFUSION_GB * 1e9)  # the small model takes as long as the real one
    link = LinkSpeed(rate, rate)
    pairs = [pair for card in ("npu:0", "npu:1") for pair in (("cpu", card), (card, "cpu"))]
    copies, clock = inside.machine.copies, inside.machine.clock
    for prompt in range(prompts + 1):
        if prompt == 1:
            copies.clear()
            clock.start(ClockSettings(HardwareProfile(dict.fromkeys(pairs, link), {})))
        mm.load_models_gpu([encoder])
        mm.unload_all_models()
        mm.load_models_gpu([diffusion])
        mm.load_models_gpu([vae])
    for card in ("npu:0", "npu:1"):
        inside.machine.module.current_stream(card).synchronize()
    moved = sum(copy.bytes for copy in copies.records if copy.source != copy.destination)
    seconds = clock.now_seconds
    clock.stop()
    del diffusion, encoder, vae
    inside.framework.context.models.unload_all(lambda: None)
    mm.free_memory(1e30, mm.get_torch_device())
    gc.collect()
    return moved, seconds


if __name__ == "__main__":
    main("What keep_loaded saves", measure, quick=partial(measure, prompts=1))
