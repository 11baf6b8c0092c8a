"""A model of very many layers: small ones are joined, so that the host keeps up with the device."""

from __future__ import annotations

import pytest

from multigpu.multigpu_core.allocation.formats.stored_tensor import StoredTensor
from multigpu.multigpu_core.allocation.inventory.inventory import Inventory
from multigpu.multigpu_core.allocation.inventory.layers import MOST_LAYERS
from multigpu.multigpu_core.allocation.inventory.of_tensors import inventory_of_tensors

MB = 1 << 20
SIZES = {"attention.query": MB, "attention.key": MB, "attention.value": MB, "attention.out": MB, "up": 9 * MB}


def made(blocks: int) -> Inventory:
    return inventory_of_tensors(
        [
            StoredTensor(f"blocks.{i}.{name}.weight", "bfloat16", size)
            for i in range(blocks)
            for name, size in SIZES.items()
        ]
    )


def layers(inventory: Inventory) -> list[str]:
    return [layer.name for block in inventory.blocks for layer in block.layers]


@pytest.mark.parametrize("blocks", [2, MOST_LAYERS // len(SIZES)])
def test_as_many_as_the_host_can_serve_are_each_by_itself(blocks: int) -> None:
    assert len(layers(made(blocks))) == blocks * len(SIZES)


def test_of_more_the_small_ones_of_a_module_are_one() -> None:
    blocks = MOST_LAYERS // len(SIZES) + 1
    names = layers(made(blocks))
    assert len(names) <= MOST_LAYERS
    assert names[:2] == ["blocks.0.attention", "blocks.0.up"]
