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

from multigpu.testing import SimulatedDevice, simulate_from_environment

MACHINE = simulate_from_environment()  # before ComfyUI looks for its devices

import torch  # noqa: E402

from multigpu.multigpu_core.provisioning import tiny_checkpoint, tiny_models  # noqa: E402

MODELS = {
    "flux": lambda: tiny_models.flux_weights(tiny_models.FluxShape(double_blocks=1, single_blocks=2)),
    "wan": lambda: tiny_models.wan_weights(tiny_models.WanShape(blocks=2)),
}
"""Few blocks: a simulated card may take a second for each in 8 or 16 bits."""


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

    dtype, options = getattr(torch, file_dtype), {"dtype": getattr(torch, weight_dtype)} if weight_dtype else {}
    torch.npu.set_device(device.torch_device)
    device.reset_peak()
    MACHINE.copies.clear()
    with torch.inference_mode():
        if architecture == "checkpoint":
            model, conditioning, vae = load_checkpoint(work, dtype)
        else:
            model, conditioning, vae = load_parts(work, architecture, dtype, options)
        seen = sample(model, conditioning, vae)
        del model, conditioning, vae
    seen |= {"copied_bytes": MACHINE.copies.bytes_moved("cpu", device.name), "peak_bytes": device.peak_bytes}
    management.free_memory(1e30, device.torch_device)
    gc.collect()
    return seen | {"left_bytes": device.live_bytes, "state": management.vram_state.name}


def load_parts(work: Path, architecture: str, dtype: torch.dtype, options: dict[str, Any]) -> tuple[Any, Any, Any]:
    """A diffusion model with a LoRA, a made-up prompt and, for pictures, a VAE, each from its own file."""
    import comfy.sd
    import comfy.utils

    weights = MODELS[architecture]()
    model_file = tiny_models.write(work / "model.safetensors", weights, dtype)
    lora_file = tiny_models.write(work / "lora.safetensors", tiny_models.lora_weights(weights))
    vae_file = tiny_models.write(work / "vae.safetensors", tiny_models.vae_weights())
    model = comfy.sd.load_diffusion_model(str(model_file), model_options=options)
    model, _ = comfy.sd.load_lora_for_models(model, None, comfy.utils.load_torch_file(str(lora_file)), 0.5, 0)
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randn(1, 7, 1024 if architecture == "flux" else 4096, generator=generator)
    conditioning = [[prompt, {"pooled_output": torch.randn(1, 32, generator=generator)}]]
    if architecture == "wan":
        return model, conditioning, None
    return model, conditioning, comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(vae_file)))


def load_checkpoint(work: Path, dtype: torch.dtype) -> tuple[Any, Any, Any]:
    """Diffusion model, a prompt encoded by CLIP, and VAE, all from one file."""
    import comfy.sd

    file = tiny_models.write(work / "checkpoint.safetensors", tiny_checkpoint.checkpoint_weights(), dtype)
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(file))
    return model, clip.encode_from_tokens_scheduled(clip.tokenize("a red cube")), vae


def sample(model: Any, conditioning: Any, vae: Any) -> dict[str, Any]:
    import comfy.sample

    latent = torch.zeros((1, 16, 4, 4) if vae else (1, 16, 2, 4, 4))
    noise = comfy.sample.prepare_noise(latent, 5)
    sampled = comfy.sample.sample(model, noise, 2, 1.0, "euler", "simple", conditioning, conditioning, latent)
    return {
        "load_device": str(model.load_device),
        "weights": sorted({str(value.dtype) for value in model.model.diffusion_model.state_dict().values()}),
        "loaded_bytes": model.loaded_size(),
        "model_bytes": model.model_size(),
        "latent": digest(sampled),
        "spread": float(sampled.std()),
        "image": digest(vae.decode(sampled)) if vae else None,
    }


def digest(values: torch.Tensor) -> str:
    return hashlib.sha256(values.contiguous().numpy().tobytes()).hexdigest()


if __name__ == "__main__":
    main(*sys.argv[1:])
