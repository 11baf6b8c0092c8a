"""A tiny Flux model as .gguf files, in the quantisations that the tests of ComfyUI-GGUF load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy

from multigpu.multigpu_core.provisioning import tiny_models

from .tiny_files import CLIP_WIDTH, T5_WIDTH

SHAPE = tiny_models.FluxShape(
    double_blocks=2, single_blocks=4, hidden_size=256, context_dim=T5_WIDTH, pooled_dim=CLIP_WIDTH
)
K_QUANTS = {gguf.GGMLQuantizationType.Q4_K: "q4_k", gguf.GGMLQuantizationType.Q5_K: "q5_k"}
FILES = ("q8_0", *K_QUANTS.values())


def write_gguf_files(folder: Path) -> None:
    """Write q8_0.gguf, q4_k.gguf and q5_k.gguf into ComfyUI's folder of diffusion models."""
    weights = {name: value.float().numpy() for name, value in tiny_models.flux_weights(SHAPE).items()}
    for name, kind in (("q8_0", gguf.GGMLQuantizationType.Q8_0), *((n, k) for k, n in K_QUANTS.items())):
        writer = gguf.GGUFWriter(folder / f"{name}.gguf", "flux")
        for key, value in weights.items():
            if value.ndim == 2 and value.shape[1] % 256 == 0 and "_blocks." in key:
                writer.add_tensor(key, _quantized(value, kind), raw_dtype=kind)
            else:
                writer.add_tensor(key, value.astype(numpy.float16) if value.ndim > 1 else value)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _quantized(value: Any, kind: gguf.GGMLQuantizationType) -> Any:
    """Quantised rows; for K-quants, which the library only reads, random blocks with small scales."""
    if kind not in K_QUANTS:
        return gguf.quants.quantize(value, kind)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = numpy.random.default_rng(7).integers(0, 256, (value.shape[0], value.shape[1] // block, size), numpy.uint8)
    blocks[..., :4] = numpy.array([0.0008, 0.0008], numpy.float16).view(numpy.uint8)  # d and dmin come first
    return blocks.reshape(value.shape[0], -1)
