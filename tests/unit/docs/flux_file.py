"""The header of Flux as published: names and shapes of its weights, and no weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..allocation.inventory.test_inventory_of_file import one_tensor, safetensors_file

WIDTH = 3072
DOUBLE_BLOCKS, SINGLE_BLOCKS = 19, 38
BYTES_A_NUMBER = 2


def flux_file(path: Path) -> Path:
    """Flux in bf16: 24 GB that take no room on the disk."""
    header = {}
    end = 0
    for name, outputs, inputs in _layers():
        for kind, shape in (("weight", [outputs, inputs]), ("bias", [outputs])):
            begin, end = end, end + BYTES_A_NUMBER * outputs * (inputs if kind == "weight" else 1)
            header[f"{name}.{kind}"] = one_tensor("BF16", shape, [begin, end])
    return safetensors_file(path, header, end)


def _layers() -> Iterator[tuple[str, int, int]]:
    """Every linear layer: its name, outputs and inputs."""
    yield from (("img_in", WIDTH, 64), ("txt_in", WIDTH, 4096))
    for name, inputs in (("time_in", 256), ("vector_in", 768), ("guidance_in", 256)):
        yield from ((f"{name}.in_layer", WIDTH, inputs), (f"{name}.out_layer", WIDTH, WIDTH))
    for block in range(DOUBLE_BLOCKS):
        for half in (f"double_blocks.{block}.{stream}" for stream in ("img", "txt")):
            yield from ((f"{half}_mod.lin", 6 * WIDTH, WIDTH), (f"{half}_attn.qkv", 3 * WIDTH, WIDTH))
            yield from ((f"{half}_attn.proj", WIDTH, WIDTH),)
            yield from ((f"{half}_mlp.0", 4 * WIDTH, WIDTH), (f"{half}_mlp.2", WIDTH, 4 * WIDTH))
    for block in range(SINGLE_BLOCKS):
        name = f"single_blocks.{block}"
        yield from ((f"{name}.linear1", 7 * WIDTH, WIDTH), (f"{name}.linear2", WIDTH, 5 * WIDTH))
        yield (f"{name}.modulation.lin", 3 * WIDTH, WIDTH)
    yield from (("final_layer.linear", 64, WIDTH), ("final_layer.adaLN_modulation.1", 2 * WIDTH, WIDTH))
