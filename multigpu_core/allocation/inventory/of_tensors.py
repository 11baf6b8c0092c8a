"""An inventory from a list of stored tensors: where live modules and file headers meet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from multigpu.multigpu_core.allocation.formats.stored_tensor import StoredTensor

from .block_names import BlockKey, group_by_block, owner_of
from .execution_order import in_execution_order
from .inventory import Block, BlockKind, Inventory
from .layers import LayerLimits, layers_of
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
    limits = LayerLimits.for_model(sum(tensor.size_bytes for tensor in tensors))
    return Inventory(
        tuple(
            _with_layers(_block(name, kinds[name], members[name]), members[name], limits)
            for name in in_execution_order(members)
        )
    )


def _key_of(tensor: StoredTensor, keys: dict[str, BlockKey]) -> BlockKey:
    key = keys[tensor.name]
    if any(keys[name] != key for name in tensor.tied):
        return BlockKey(tensor.name, BlockKind.HEAD)
    return key


def _with_layers(block: Block, tensors: list[StoredTensor], limits: LayerLimits) -> Block:
    if block.kind is BlockKind.HEAD:
        return block
    found = layers_of(block.name, [(owner_of(tensor.name), tensor) for tensor in tensors], limits)
    kinds = {block.name: BlockKind.HEAD}
    layers = (
        replace(_block(name, kinds.get(name, block.kind), found[name], block.name), part_of=block.name)
        for name in in_execution_order(found)
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
