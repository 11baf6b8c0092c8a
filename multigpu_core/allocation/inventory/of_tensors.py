"""An inventory from a list of stored tensors: where live modules and file headers meet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from multigpu.multigpu_core.allocation.formats.stored_tensor import StoredTensor

from .block_names import BlockKey, group_by_block, owner_of
from .execution_order import in_execution_order
from .inventory import Block, BlockKind, Inventory
from .layers import layers_of_blocks
from .work import work_of


def inventory_of_tensors(tensors: Sequence[StoredTensor]) -> Inventory:
    """The blocks that `tensors` make, each tensor in exactly one, sorted by execution.

    Every name of a tensor that has several stands in the one block that counts its bytes. A tensor that two blocks
    tie belongs to a head: whichever of them runs needs it.
    """
    keys = group_by_block(name for tensor in tensors for name in (tensor.name, *tensor.tied))
    members: dict[str, list[StoredTensor]] = {}
    kinds: dict[str, BlockKind] = {}
    for tensor in tensors:
        key = _key_of(tensor, keys)
        members.setdefault(key.name, []).append(tensor)
        kinds[key.name] = key.kind
    order = in_execution_order(members)
    owned = {
        name: [(owner_of(tensor.name), tensor) for tensor in members[name]]
        for name in order
        if kinds[name] is not BlockKind.HEAD
    }
    layers = layers_of_blocks(owned)
    return Inventory(tuple(_with_layers(_block(n, kinds[n], members[n]), layers.get(n, {})) for n in order))


def _key_of(tensor: StoredTensor, keys: dict[str, BlockKey]) -> BlockKey:
    key = keys[tensor.name]
    if any(keys[name] != key for name in tensor.tied):
        return BlockKey(tensor.name, BlockKind.HEAD)
    return key


def _with_layers(block: Block, found: Mapping[str, list[StoredTensor]]) -> Block:
    layers = (
        replace(
            _block(name, BlockKind.HEAD if name == block.name else block.kind, tensors, block.name), part_of=block.name
        )
        for name, tensors in found.items()
    )
    return replace(block, layers=tuple(layers))


def _block(name: str, kind: BlockKind, tensors: list[StoredTensor], whole: str = "") -> Block:
    """One block, or a layer of the block `whole`."""
    bytes_by_dtype: Counter[str] = Counter()
    parameters: list[str] = []
    work = 0
    for tensor in tensors:
        bytes_by_dtype[tensor.dtype] += tensor.size_bytes
        parameters += (tensor.name, *tensor.aliases, *tensor.tied)
        work += work_of(tensor.name.removeprefix(f"{whole or name}."), tensor.dtype, tensor.size_bytes)
    dtype = max(bytes_by_dtype, key=bytes_by_dtype.__getitem__)
    return Block(name, kind, dtype, sum(bytes_by_dtype.values()), tuple(parameters), work)
