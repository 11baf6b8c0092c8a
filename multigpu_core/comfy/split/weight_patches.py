"""Track which weight patches (LoRAs) are applied to a model's weights, so that a change touches only what it must."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import nn

from multigpu.multigpu_core.comfy.host.compatibility import comfy_utils
from multigpu.multigpu_core.execution import PinnedMemory, parts_of


class WeightPatcher(Protocol):
    """The part of ComfyUI's ModelPatcher that weight patching needs."""

    model: nn.Module
    patches: dict[str, list[Any]]
    backup: dict[str, Any]

    def patch_weight_to_device(self, key: str, device_to: torch.device | None = ...) -> Any: ...


class AppliedPatches:
    """The patches applied to one model's weights, by state-dict key; shared by all patchers of that model."""

    def __init__(self, pinned: PinnedMemory) -> None:
        self._pinned = pinned
        self._applied: dict[str, list[Any]] = {}

    def outdated(self, patcher: WeightPatcher) -> frozenset[str]:
        """Keys whose weights are not as this patcher wants them."""
        wanted = {key: patcher.patches[key] for key in patchable_keys(patcher.model, patcher.patches)}
        return frozenset(
            key for key in wanted.keys() | self._applied.keys() if not _same(wanted.get(key), self._applied.get(key))
        )

    def renew(self, patcher: WeightPatcher, key: str, device: torch.device) -> None:
        """Bring one weight to what the patcher wants: the original, patched on `device` where there is a patch."""
        self._restore(patcher, key)
        if key in patcher.patches:
            patcher.patch_weight_to_device(key, device_to=device)
            self._keep_in_ordinary_memory(patcher, key)
            self._applied[key] = list(patcher.patches[key])

    def forget(self) -> None:
        """Say that the weights are the file's again."""
        self._applied.clear()

    def _keep_in_ordinary_memory(self, patcher: WeightPatcher, key: str) -> None:
        """Originals are not streamed: pinned memory is for what is, and there is a limit to it."""
        original = patcher.backup.get(key)
        if original is not None and any(map(self._pinned.holds, parts_of(original.weight))):
            with torch.inference_mode(False), torch.no_grad():  # it outlives the inference in which it is made
                patcher.backup[key] = original._replace(weight=original.weight.clone())

    def _restore(self, patcher: WeightPatcher, key: str) -> None:
        self._applied.pop(key, None)
        original = patcher.backup.get(key)
        if original is None:
            _take_off(patcher, key)
            return
        put = comfy_utils.copy_to_param if original.inplace_update else comfy_utils.set_attr_param
        put(patcher.model, key, original.weight)
        patcher.backup.pop(key)  # only now: an error before leaves the original where it is found again


def _take_off(patcher: WeightPatcher, key: str) -> None:
    """Take patches off a quantised weight that stays as it is: ComfyUI-GGUF hangs them on the tensor."""
    path, _, attribute = key.rpartition(".")
    weight = patcher.model.get_submodule(path)._parameters.get(attribute)
    if getattr(weight, "patches", None):
        weight.patches = []  # type: ignore[union-attr]


def patchable_keys(model: nn.Module, keys: Iterable[str]) -> frozenset[str]:
    """Those of `keys` that core patches as well: weights of modules that have no parameters further down.

    Patching more than core does would give another picture than a single-device load.
    """
    modules = dict(model.named_modules())
    return frozenset(key for key in keys if _is_patchable(modules, key))


def _is_patchable(modules: dict[str, nn.Module], key: str) -> bool:
    path, _, attribute = key.rpartition(".")
    owner = modules.get(path)
    if owner is None or attribute not in owner._parameters:
        return False
    return not any(True for child in owner.children() for _ in child.parameters())


def _same(wanted: list[Any] | None, applied: list[Any] | None) -> bool:
    """Whether two patch lists do the same: adapters by identity, strengths by value."""
    if wanted is None or applied is None:
        return wanted is applied
    return len(wanted) == len(applied) and all(_same_patch(a, b) for a, b in zip(wanted, applied, strict=True))


def _same_patch(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    """Patches are (strength, adapter, model strength, offset, function); adapters may be tuples with tensors."""
    return len(a) == len(b) and all(map(_same_value, a, b))


def _same_value(x: Any, y: Any) -> bool:
    if isinstance(x, tuple) and isinstance(y, tuple):
        return len(x) == len(y) and all(map(_same_value, x, y))
    return x is y or (isinstance(x, (int, float, str)) and bool(x == y))
