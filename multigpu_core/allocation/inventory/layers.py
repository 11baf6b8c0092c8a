"""Divide a block into its layers, by the names and sizes of its tensors alone: the unit in which weights are streamed.

A layer is a module that is called and has weights of its own. A module that owns much of what is in it stays whole: its
forward reads the weights of the layers inside without calling them, as that of `nn.MultiheadAttention` does. Where a
model has many layers, parts of small modules are joined. What is left over is the *rest*: norms, tables and biases that
are too small to be worth a copy. The rest of a block stays on the compute device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from multigpu.multigpu_core.allocation.formats.stored_tensor import StoredTensor

MOST_RESIDENT_BYTES = 256 * 1024
"""A layer under that size stays on the compute device: its copy would take no less than a larger one's."""

MOST_JOINED_BYTES = 64 * 1024**2
"""The largest module whose parts are joined."""

MOST_LAYERS = 310
"""Each layer costs the host some 20 microseconds a step: where there are more, small ones are joined."""

_RESIDENT_SHARE = 4096
_JOINED_SHARES = (320, 160, 80)
"""Small models are divided as large ones are: the limits are no more than such a fraction of the model."""

_OWN_SHARE = 16
"""A module that owns more than that fraction of the bytes in it stays whole."""


@dataclass(frozen=True)
class LayerLimits:
    """Up to which size tensors stay on the compute device, and parts of a module stay joined. Bytes."""

    resident_bytes: int
    joined_bytes: int = 0

    @classmethod
    def for_model(cls, total_bytes: int) -> Iterator[LayerLimits]:
        """The limits to try one after the other, until there are no more than `MOST_LAYERS`."""
        resident = min(MOST_RESIDENT_BYTES, total_bytes // _RESIDENT_SHARE)
        yield cls(resident)
        for share in _JOINED_SHARES:
            yield cls(resident, min(MOST_JOINED_BYTES, total_bytes // share))


@dataclass
class _Module:
    """A module of a block, with the tensors that it owns and the modules in it."""

    path: str
    own: list[StoredTensor] = field(default_factory=list)
    parts: dict[str, _Module] = field(default_factory=dict)
    size_bytes: int = 0

    @property
    def tensors(self) -> Iterator[StoredTensor]:
        yield from self.own
        for part in self.parts.values():
            yield from part.tensors

    @property
    def is_list(self) -> bool:
        """Whether its parts are numbered, so that they may be called one by one."""
        return bool(self.parts) and all(name.isdigit() for name in self.parts)

    def layers(self, limits: LayerLimits) -> Iterator[tuple[str, list[StoredTensor]]]:
        """The layers in it that are worth a copy, by path."""
        own_bytes = sum(tensor.size_bytes for tensor in self.own)
        is_joined = self.size_bytes <= limits.joined_bytes and not self.is_list
        if not self.parts or is_joined or own_bytes * _OWN_SHARE > self.size_bytes:
            if self.size_bytes >= limits.resident_bytes:
                yield self.path, list(self.tensors)
            return
        for part in self.parts.values():
            yield from part.layers(limits)


Owned = Sequence[tuple[str, StoredTensor]]
"""Tensors, each with the path of the module that owns it."""


def layers_of_blocks(blocks: Mapping[str, Owned]) -> dict[str, dict[str, list[StoredTensor]]]:
    """For each block of a model its layers by path, and its rest under its own; none where it stays whole."""
    found: dict[str, dict[str, list[StoredTensor]]] = {}
    for limits in LayerLimits.for_model(sum(tensor.size_bytes for owned in blocks.values() for _, tensor in owned)):
        found = {block: layers_of(block, owned, limits) for block, owned in blocks.items()}
        if sum(len(layers.keys() - {block}) for block, layers in found.items()) <= MOST_LAYERS:
            break
    return found


def layers_of(block: str, owned: Owned, limits: LayerLimits) -> dict[str, list[StoredTensor]]:
    """The layers of one block, within these limits."""
    root = _Module(block)
    for path, tensor in owned:
        if tensor.tied or not (path == block or path.startswith(f"{block}.")):
            return {}  # one tensor of several layers, which must remain one
        module = root
        module.size_bytes += tensor.size_bytes
        for part in path.removeprefix(block).split(".")[1:]:
            module = module.parts.setdefault(part, _Module(f"{module.path}.{part}"))
            module.size_bytes += tensor.size_bytes
        module.own.append(tensor)
    if root.size_bytes <= limits.joined_bytes:
        return {}
    found = dict(root.layers(limits))
    if not found or block in found:
        return {}
    taken = {tensor.name for tensors in found.values() for tensor in tensors}
    rest = [tensor for _, tensor in owned if tensor.name not in taken]
    return {block: rest, **found} if rest else found
