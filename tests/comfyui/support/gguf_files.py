"""Tiny models as .gguf files, in the quantisations that the tests of ComfyUI-GGUF load, and headers of large ones."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy
from torch import Tensor

from multigpu.multigpu_core.provisioning import tiny_models

from .tiny_files import CLIP_WIDTH, T5_WIDTH

SHAPE = tiny_models.FluxShape(
    double_blocks=2, single_blocks=4, hidden_size=256, context_dim=T5_WIDTH, pooled_dim=CLIP_WIDTH
)
K_QUANTS = {gguf.GGMLQuantizationType.Q4_K: "q4_k", gguf.GGMLQuantizationType.Q5_K: "q5_k"}
FILES = ("q8_0", *K_QUANTS.values())


def write_gguf_files(folder: Path) -> None:
    """Write q8_0.gguf, q4_k.gguf and q5_k.gguf, tiny Flux models, into ComfyUI's folder of diffusion models."""
    weights = tiny_models.flux_weights(SHAPE)
    for name, kind in (("q8_0", gguf.GGMLQuantizationType.Q8_0), *((n, k) for k, n in K_QUANTS.items())):
        write_gguf(folder / f"{name}.gguf", "flux", weights, kind)


def write_gguf(path: Path, architecture: str, weights: Mapping[str, Tensor], kind: gguf.GGMLQuantizationType) -> None:
    """Write a model file. The matrices of its blocks are quantised, as far as their rows can be."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, tensor in weights.items():
        value = tensor.float().numpy()
        is_matrix = value.ndim == 2 and "_blocks." in key and key.endswith(".weight")
        if is_matrix and value.shape[1] % gguf.GGML_QUANT_SIZES[kind][0] == 0:
            writer.add_tensor(key, _quantized(value, kind), raw_dtype=kind)
        else:
            writer.add_tensor(key, value.astype(numpy.float16) if value.ndim > 1 else value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_gguf_header(path: Path, architecture: str, shapes: Mapping[str, Sequence[int]]) -> None:
    """Write the header of a model in float16, and no data: the file takes no room on the disk."""
    writer = gguf.GGUFWriter(path, architecture)
    size = 0
    for key, shape in shapes.items():
        stored = 2 * math.prod(shape)
        writer.add_tensor_info(key, shape, numpy.dtype(numpy.float16), stored)
        size += -(-stored // gguf.GGUF_DEFAULT_ALIGNMENT) * gguf.GGUF_DEFAULT_ALIGNMENT
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:
        header = file.seek(0, os.SEEK_END)
        file.truncate(-(-header // gguf.GGUF_DEFAULT_ALIGNMENT) * gguf.GGUF_DEFAULT_ALIGNMENT + size)


def _quantized(value: Any, kind: gguf.GGMLQuantizationType) -> Any:
    """Quantised rows; for K-quants, which the library only reads, random blocks with small scales."""
    if kind not in K_QUANTS:
        return gguf.quants.quantize(value, kind)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = numpy.random.default_rng(7).integers(0, 256, (value.shape[0], value.shape[1] // block, size), numpy.uint8)
    blocks[..., :4] = numpy.array([0.0008, 0.0008], numpy.float16).view(numpy.uint8)  # d and dmin come first
    return blocks.reshape(value.shape[0], -1)
