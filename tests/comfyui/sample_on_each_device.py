"""A script for a fresh process: samples tiny models with ComfyUI's sampler on each of its accelerators.

``python sample_on_each_device.py COMFYUI_FOLDER WORK_FOLDER CASE…``, where a case is ``ARCHITECTURE/FILE_DTYPE`` or
``ARCHITECTURE/FILE_DTYPE/WEIGHT_DTYPE``. The last line that it prints is JSON: for each case and device the digest of
the latent and of the image, where they were computed and what stayed behind.
"""

from __future__ import annotations

import gc
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from multigpu.multigpu_core.testing import SimulatedDevice, simulate_from_environment

MACHINE = simulate_from_environment()  # before ComfyUI looks for its devices

import torch  # noqa: E402

from multigpu.multigpu_core.testing import tiny_models  # noqa: E402


def main(comfyui: str, work: str, *cases: str) -> None:
    sys.path.insert(0, comfyui)
    sys.argv = ["main.py"]
    assert MACHINE is not None
    seen = {case: [sample_on(device, Path(work), *case.split("/")) for device in MACHINE.devices] for case in cases}
    print(json.dumps(seen))


def sample_on(
    device: SimulatedDevice, work: Path, architecture: str, file_dtype: str, weight_dtype: str | None = None
) -> dict[str, Any]:
    import comfy.model_management as management

    make = {"flux": tiny_models.flux_weights, "wan": tiny_models.wan_weights}[architecture]
    weights = make()
    files = {
        "model": tiny_models.write(work / "model.safetensors", weights, getattr(torch, file_dtype)),
        "lora": tiny_models.write(work / "lora.safetensors", tiny_models.lora_weights(weights)),
        "vae": tiny_models.write(work / "vae.safetensors", tiny_models.vae_weights()),
    }
    options = {"dtype": getattr(torch, weight_dtype)} if weight_dtype else {}
    torch.npu.set_device(device.torch_device)
    device.reset_peak()
    MACHINE.copies.clear()
    with torch.inference_mode():
        seen = sample(files, options, architecture)
    seen |= {"copied_bytes": MACHINE.copies.bytes_moved("cpu", device.name), "peak_bytes": device.peak_bytes}
    management.free_memory(1e30, device.torch_device)
    gc.collect()
    return seen | {"left_bytes": device.live_bytes, "state": management.vram_state.name}


def sample(files: dict[str, Path], options: dict[str, Any], architecture: str) -> dict[str, Any]:
    import comfy.sample
    import comfy.sd
    import comfy.utils

    model = comfy.sd.load_diffusion_model(str(files["model"]), model_options=options)
    lora = comfy.utils.load_torch_file(str(files["lora"]))
    model, _ = comfy.sd.load_lora_for_models(model, None, lora, 0.5, 0)
    generator = torch.Generator().manual_seed(0)
    flux = architecture == "flux"
    shape = (1, 16, 8, 8) if flux else (1, 16, 2, 8, 8)
    prompt = torch.randn(1, 7, 1024 if flux else 4096, generator=generator)
    conditioning = [[prompt, {"pooled_output": torch.randn(1, 32, generator=generator)}]]
    latent = torch.zeros(shape)
    noise = comfy.sample.prepare_noise(latent, 5)
    sampled = comfy.sample.sample(model, noise, 3, 1.0, "euler", "simple", conditioning, conditioning, latent)
    seen = {
        "load_device": str(model.load_device),
        "weights": sorted({str(value.dtype) for value in model.model.diffusion_model.state_dict().values()}),
        "loaded_bytes": model.loaded_size(),
        "model_bytes": model.model_size(),
        "latent": digest(sampled),
        "spread": float(sampled.std()),
    }
    if flux:
        vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(files["vae"])))
        seen["image"] = digest(vae.decode(sampled))
    return seen


def digest(values: torch.Tensor) -> str:
    return hashlib.sha256(values.contiguous().numpy().tobytes()).hexdigest()


if __name__ == "__main__":
    main(*sys.argv[1:])
