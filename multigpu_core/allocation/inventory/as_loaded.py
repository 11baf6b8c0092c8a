"""The inventory of a model as ComfyUI loads it from its files: what every plan before a load is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from multigpu.multigpu_core.allocation.formats.built_in import BUILT_IN_FORMATS

from .checkpoint_parts import CheckpointPart
from .inventory import Block, Inventory
from .of_file import Formats, inventory_of_file

_FLOAT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_HALF = "bfloat16"


@dataclass(frozen=True)
class LoadedAs:
    """How a node loads a file: `weight_dtype` as its input has it, `part` of a checkpoint, and where it computes."""

    compute_device: str
    weight_dtype: str = "default"
    part: CheckpointPart | None = None


def inventory_as_loaded(files: Sequence[Path], how: LoadedAs, formats: Formats = BUILT_IN_FORMATS) -> Inventory:
    """The blocks of a model with the sizes and dtypes in which ComfyUI loads them; those of several files one by one.

    Floats take two bytes a number, or one where fp8 is chosen. Quantised blocks are loaded as they are, and so are
    VAEs, and what computes on the cpu. Raises as `inventory_of_file`.
    """
    found = [_loaded(inventory_of_file(file, part=how.part, formats=formats), how) for file in files]
    if len(found) == 1:
        return found[0]
    named = (_numbered(block, number) for number, inventory in enumerate(found, 1) for block in inventory.blocks)
    return Inventory(tuple(named))


def _numbered(block: Block, number: int) -> Block:
    """A block of one of several files, under a name that none of another has."""
    return replace(
        block,
        name=f"{number}.{block.name}",
        parameters=tuple(f"{number}.{parameter}" for parameter in block.parameters),
        layers=tuple(_numbered(layer, number) for layer in block.layers),
        part_of=f"{number}.{block.part_of}" if block.part_of else "",
    )


def _loaded(inventory: Inventory, how: LoadedAs) -> Inventory:
    is_fp8 = how.weight_dtype.startswith("fp8")
    if how.part is CheckpointPart.VAE or (how.compute_device == "cpu" and not is_fp8):
        return inventory
    dtype, number_bytes = (how.weight_dtype.replace("fp8", "float8"), 1) if is_fp8 else (_HALF, 2)
    return Inventory(tuple(_narrowed(block, dtype, number_bytes) for block in inventory.blocks))


def _narrowed(block: Block, dtype: str, number_bytes: int) -> Block:
    if block.layers:
        layers = tuple(_narrowed(layer, dtype, number_bytes) for layer in block.layers)
        largest = max(layers, key=lambda layer: layer.size_bytes)
        return replace(block, dtype=largest.dtype, size_bytes=sum(layer.size_bytes for layer in layers), layers=layers)
    own_bytes = _FLOAT_BYTES.get(block.dtype, 0)
    if own_bytes <= number_bytes:
        return block
    return replace(block, dtype=dtype, size_bytes=block.size_bytes * number_bytes // own_bytes)
