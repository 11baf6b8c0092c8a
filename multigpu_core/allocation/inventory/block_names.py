"""The one rule that groups parameters into blocks, by their names alone.

A block is the smallest repeated unit that is called as a whole: `double_blocks.3`, `encoder.block.7`,
`input_blocks.4.1.transformer_blocks.2`. A numbered member of a list makes a unit when the list's name says that it
holds layers; numbers inside a unit (`img_mlp.0`, `ff.net.0.proj`, `layer.1.DenseReluDense`) do not. A unit that holds
smaller units is only a stage: what it owns beside them (`input_blocks.4.1.proj_in`) makes a block for each layer.
All else is a head. Live modules and file headers share this rule, so their blocks have the same names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from .inventory import BlockKind


class BlockKey(NamedTuple):
    """Which block a parameter belongs to."""

    name: str
    kind: BlockKind


class _Unit(NamedTuple):
    """A numbered member of a list, on the way to a parameter."""

    path: str
    kind: BlockKind


# Lists whose members are blocks wherever they are: any name with such an end, and these.
_LIST_ENDINGS = ("blocks", "layers")
_LISTS = frozenset({
    "attentions", "downsamplers", "downsamples", "resnets", "time_stack", "upsamplers", "upsamples",
})  # fmt: skip
# Names too common to be trusted inside a unit: there they number the parts of one block.
_OUTERMOST_LIST_ENDINGS = ("block", "layer", "refiner")
_OUTERMOST_LISTS = frozenset({"blk", "down", "encoders", "h", "injector", "middle", "up"})
_NOT_LISTS = frozenset({"emb_layers", "in_layers", "out_layers"})
_RESOLUTION_LISTS = frozenset({"down", "up"})
_CONVOLUTIONAL_LISTS = _RESOLUTION_LISTS | _LISTS - {"time_stack"} | {
    "down_blocks", "input_blocks", "middle", "middle_block", "output_blocks", "res_blocks", "up_blocks",
}  # fmt: skip
# Members that carry their number in their own name: `mid.block_1`, `blocks.block0`.
_NAMED_MEMBER = re.compile(r"(?:block|attn)_?\d+")
_NAMED_MEMBER_LISTS = frozenset({"mid", "blocks"})

# What a single layer calls its tensors; a parameter of any other name is read by attribute.
_LAYER_TENSORS = frozenset({
    "weight", "bias", "scale", "gamma", "beta", "g", "in_proj_weight", "in_proj_bias",
    "running_mean", "running_var", "num_batches_tracked",
    "weight_scale", "weight_scale_2", "scale_weight", "input_scale", "scale_input", "comfy_quant",
})  # fmt: skip
# Positional encodings that text encoders keep inside their first block.
_HEADS_INSIDE_BLOCKS = frozenset({"relative_attention_bias", "attn_rel_b"})


def group_by_block(names: Iterable[str]) -> dict[str, BlockKey]:
    """Each name's block, in the order of `names`, which must be all the names of one model."""
    chains = {name: _units_around(name.split(".")) for name in names}
    stages = {unit.path for chain in chains.values() for unit in chain[:-1]}
    units = {chain[-1].path: chain[-1] for chain in chains.values() if chain and chain[-1].path not in stages}
    return {name: _block(name, chain, units) for name, chain in chains.items()}


def owner_of(name: str) -> str:
    """The path of the module that owns the tensor `name`."""
    return _layer_of(name) or name.rpartition(".")[0]


def _layer_of(name: str) -> str | None:
    """The path of the single layer that owns the tensor `name`; None where the tensor stands alone."""
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        # A layer's tensor may have tensors below it: `q.weight.absmax`.
        if parts[end] in _LAYER_TENSORS and (end == len(parts) - 1 or parts[end] == "weight"):
            return ".".join(parts[:end])
    return None


def _head_of(name: str) -> BlockKey:
    """The head block for a parameter that no block takes along: its layer, or itself."""
    return BlockKey(_layer_of(name) or name, BlockKind.HEAD)


def _block(name: str, chain: tuple[_Unit, ...], units: dict[str, _Unit]) -> BlockKey:
    """The block of a parameter inside `chain`; `units` are the units that hold no smaller ones."""
    if not _HEADS_INSIDE_BLOCKS.isdisjoint(name.split(".")):
        return _head_of(name)
    layer = _layer_of(name)
    if layer in units:
        return BlockKey(*units[layer])
    if chain and chain[-1].path in units:
        return BlockKey(*chain[-1])
    if not chain or layer is None:
        return _head_of(name)
    is_norm = "norm" in layer.rsplit(".", 1)[-1]
    return BlockKey(layer, BlockKind.NORM if is_norm else BlockKind.OTHER)


def _units_around(parts: list[str]) -> tuple[_Unit, ...]:
    """The units that hold the parameter, outermost first."""
    chain: list[_Unit] = []
    last = 0
    for index in range(1, len(parts) - 1):
        kind = _member_kind(parts, index, last)
        if kind is not None:
            chain.append(_Unit(".".join(parts[: index + 1]), kind))
            last = index
    return tuple(chain)


def _member_kind(parts: list[str], index: int, last: int) -> BlockKind | None:
    """The kind of unit that `parts[index]` is within its list; None where it is none. `last` is the unit around it."""
    member, of = parts[index], parts[index - 1]
    if not member.isdigit():
        named = of in _NAMED_MEMBER_LISTS and _NAMED_MEMBER.fullmatch(member)
        return (BlockKind.OTHER if of == "mid" else BlockKind.TRANSFORMER) if named else None
    if last and last == index - 1:
        # `input_blocks.4.1`: the member of a member is what is called; deeper numbers are its own parts.
        return None if parts[last - 1].isdigit() else BlockKind.OTHER
    if not _is_layer_list(of, inside=parts[last - 1] if last else None):
        return None
    if parts[index + 1] in _LAYER_TENSORS:
        # A list of single layers. Only one that calls itself blocks is known to be called member by member.
        return BlockKind.OTHER if of.endswith("_blocks") and not last else None
    is_convolutional = of in _CONVOLUTIONAL_LISTS or (last and parts[last - 1] in _RESOLUTION_LISTS)
    return BlockKind.OTHER if is_convolutional else BlockKind.TRANSFORMER


def _is_layer_list(word: str, inside: str | None) -> bool:
    if word in _NOT_LISTS:
        return False
    if word.endswith(_LIST_ENDINGS) or word in _LISTS:
        return True
    if inside is None:
        return word.endswith(_OUTERMOST_LIST_ENDINGS) or word in _OUTERMOST_LISTS
    return inside in _RESOLUTION_LISTS and word in ("block", "attn")
