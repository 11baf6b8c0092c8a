"""Which LoRA patches lie in which weight is known exactly: what must change changes, and nothing else."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ..support.in_process import ComfyUI

CPU = torch.device("cpu")


class _Model(nn.Module):
    """Two plain weights, and one of a module that has children with weights of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2, bias=False)
        self.second = nn.Linear(2, 2, bias=False)
        self.parent = nn.Linear(2, 2, bias=False)
        self.parent.child = nn.Linear(2, 2, bias=False)
        self.register_buffer("table", torch.zeros(2, 2))


class _Locked:
    """Pinned memory that holds what it is told to hold."""

    def __init__(self) -> None:
        self.held: list[Tensor] = []

    def holds(self, tensor: Tensor) -> bool:
        return any(tensor.data_ptr() == each.data_ptr() for each in self.held)


@pytest.fixture
def locked() -> _Locked:
    return _Locked()


@pytest.fixture
def applied(comfyui: ComfyUI, locked: _Locked) -> Any:
    return importlib.import_module("multigpu.multigpu_core.comfy.split.weight_patches").AppliedPatches(locked)


@pytest.fixture
def model(comfyui: ComfyUI) -> _Model:
    with torch.inference_mode(False):
        made = _Model().requires_grad_(False)
        for parameter in made.parameters():
            parameter.fill_(1.0)
    return made


def _patcher(model: nn.Module, inplace: bool = False) -> Any:
    patchers: Any = importlib.import_module("comfy.model_patcher")
    return patchers.ModelPatcher(model, CPU, CPU, weight_inplace_update=inplace)


def _lora(amount: float) -> Any:
    return "diff", (torch.full((2, 2), amount),)


def _load(applied: Any, patcher: Any) -> set[str]:
    """Bring every weight to what the patcher wants; the keys that it took."""
    keys: frozenset[str] = applied.outdated(patcher)
    for key in keys:
        applied.renew(patcher, key, CPU)
    assert applied.outdated(patcher) == frozenset()
    return set(keys)


def _values(model: _Model) -> tuple[float, float]:
    return float(model.first.weight[0, 0]), float(model.second.weight[0, 0])


def test_a_patch_is_put_in_once_and_taken_out(applied: Any, model: _Model) -> None:
    plain, patched = _patcher(model), _patcher(model)
    patched.backup = plain.backup  # as clones share it
    patched.add_patches({"first.weight": _lora(2.0)}, 1.0)
    assert _load(applied, patched) == {"first.weight"} and _values(model) == (3.0, 1.0)
    assert _load(applied, patched) == set()
    assert _load(applied, plain) == {"first.weight"} and _values(model) == (1.0, 1.0)
    assert _load(applied, plain) == set() and plain.backup == {}


def test_a_new_strength_starts_from_the_original_and_leaves_other_weights_alone(applied: Any, model: _Model) -> None:
    patchers = [_patcher(model) for _ in range(2)]
    patchers[1].backup = patchers[0].backup
    first, second = _lora(2.0), _lora(4.0)
    for patcher, strength in zip(patchers, (0.5, 1.0), strict=True):
        patcher.add_patches({"first.weight": first}, strength)
        patcher.add_patches({"second.weight": second}, 0.25 + 0.25)  # the same number, another object
    assert _load(applied, patchers[0]) == {"first.weight", "second.weight"} and _values(model) == (2.0, 3.0)
    assert _load(applied, patchers[1]) == {"first.weight"} and _values(model) == (3.0, 3.0)


def test_another_adapter_with_equal_values_is_another_patch(applied: Any, model: _Model) -> None:
    """Adapters are told apart by identity: their tensors are never compared."""
    patchers = [_patcher(model) for _ in range(2)]
    patchers[1].backup = patchers[0].backup
    for patcher in patchers:
        patcher.add_patches({"first.weight": _lora(2.0)}, 1.0)
    _load(applied, patchers[0])
    assert _load(applied, patchers[1]) == {"first.weight"} and _values(model) == (3.0, 1.0)


def test_a_patch_that_is_added_to_the_very_patcher_is_noticed(applied: Any, model: _Model) -> None:
    patcher = _patcher(model)
    patcher.add_patches({"first.weight": _lora(2.0)}, 1.0)
    _load(applied, patcher)
    patcher.add_patches({"first.weight": _lora(5.0)}, 1.0)
    assert _load(applied, patcher) == {"first.weight"} and _values(model) == (8.0, 1.0)


def test_a_patch_that_is_taken_out_of_the_very_patcher_is_noticed(applied: Any, model: _Model) -> None:
    patcher = _patcher(model)
    for amount in (2.0, 5.0):
        patcher.add_patches({"first.weight": _lora(amount)}, 1.0)
    _load(applied, patcher)
    patcher.patches["first.weight"].pop()
    assert _load(applied, patcher) == {"first.weight"} and _values(model) == (3.0, 1.0)


@pytest.mark.parametrize("changed", ["strength", "model strength", "offset"])
def test_each_number_of_a_patch_counts(applied: Any, model: _Model, changed: str) -> None:
    adapter = _lora(2.0)
    before = (1.0, adapter, 1.0, (0, 0, 1), None)
    after = {
        "strength": (0.5, adapter, 1.0, (0, 0, 1), None),
        "model strength": (1.0, adapter, 0.5, (0, 0, 1), None),
        "offset": (1.0, adapter, 1.0, (0, 1, 1), None),
    }[changed]
    patcher = _patcher(model)
    patcher.patches = {"first.weight": [before]}
    _load(applied, patcher)
    patcher.patches = {"first.weight": [(1.0, adapter, 1.0, (0, 0, 1), None)]}
    assert applied.outdated(patcher) == frozenset()
    patcher.patches = {"first.weight": [after]}
    assert applied.outdated(patcher) == {"first.weight"}


def test_only_weights_that_core_patches_are_patched(applied: Any, model: _Model) -> None:
    """Not those of modules with parameters further down, not buffers, and none that the model has not."""
    patcher = _patcher(model)
    keys = ("parent.weight", "parent.child.weight", "table", "absent.weight")
    patcher.patches = {key: [(1.0, _lora(2.0), 1.0, None, None)] for key in keys}
    assert applied.outdated(patcher) == {"parent.child.weight"}


def test_after_the_weights_went_home_everything_is_put_in_again(applied: Any, model: _Model) -> None:
    patcher = _patcher(model)
    patcher.add_patches({"first.weight": _lora(2.0)}, 1.0)
    _load(applied, patcher)
    patcher.unpatch_model(CPU)
    applied.forget()
    assert _values(model) == (1.0, 1.0)
    assert _load(applied, patcher) == {"first.weight"} and _values(model) == (3.0, 1.0)


@pytest.mark.parametrize("inplace", [False, True])
def test_an_error_while_an_original_is_put_back_does_not_lose_it(
    applied: Any, model: _Model, inplace: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    utils: Any = importlib.import_module("comfy.utils")
    patcher = _patcher(model, inplace)
    patcher.add_patches({"first.weight": _lora(2.0)}, 1.0)
    _load(applied, patcher)
    patcher.patches = {}
    with monkeypatch.context() as patch, pytest.raises(torch.OutOfMemoryError):
        patch.setattr(utils, "copy_to_param" if inplace else "set_attr_param", _out_of_memory)
        applied.renew(patcher, "first.weight", CPU)
    applied.renew(patcher, "first.weight", CPU)
    assert _values(model) == (1.0, 1.0)


def _out_of_memory(*_: Any) -> None:
    raise torch.OutOfMemoryError


def test_an_original_goes_back_into_the_very_tensor_where_comfyui_patches_in_place(applied: Any, model: _Model) -> None:
    patcher = _patcher(model, inplace=True)
    patcher.add_patches({"first.weight": _lora(2.0)}, 1.0)
    weight = model.first.weight
    _load(applied, patcher)
    patcher.patches = {}
    _load(applied, patcher)
    assert model.first.weight is weight and _values(model) == (1.0, 1.0)


def test_an_original_in_page_locked_memory_is_copied_out_for_good(applied: Any, model: _Model, locked: _Locked) -> None:
    patcher = _patcher(model)
    patcher.add_patches({"first.weight": _lora(2.0), "second.weight": _lora(2.0)}, 1.0)
    locked.held.append(model.first.weight)
    held, other = model.first.weight, model.second.weight
    _load(applied, patcher)
    kept = patcher.backup["first.weight"].weight
    assert kept is not held and not kept.is_inference() and torch.equal(kept, held)
    assert patcher.backup["second.weight"].weight is other, "what is in ordinary memory is not copied"


def test_patches_that_hang_on_a_quantised_weight_are_taken_off(applied: Any, model: _Model) -> None:
    """ComfyUI-GGUF leaves the weight as it is, and keeps no original."""
    patcher = _patcher(model)
    model.first.weight.patches = [((), "first.weight")]  # type: ignore[assignment]
    applied.renew(patcher, "first.weight", CPU)
    assert model.first.weight.patches == []
