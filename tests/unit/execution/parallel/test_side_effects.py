"""Whether a forward leaves something behind: on its modules, or in torch's random generators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from multigpu.multigpu_core.execution.parallel.side_effects import SideEffects


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("table", torch.zeros(2))
        self.calls = 1000
        self.kept: dict[str, Any] = {"a": 1}
        self.list: list[Any] = [1]


def put(holder: Any, key: Any, value: Any) -> None:
    holder[key] = value


CHANGES: dict[str, Callable[[Model], object]] = {
    "an attribute": lambda model: setattr(model, "calls", model.calls + 1),
    "a new attribute": lambda model: setattr(model, "last", 1),
    "an attribute of a layer": lambda model: setattr(model.layer, "last", 1),
    "an attribute less": lambda model: delattr(model, "calls"),
    "an item of a dict": lambda model: put(model.kept, "a", 2),
    "a new item of a dict": lambda model: put(model.kept, "b", 2),
    "a longer list": lambda model: model.list.append(2),
    "another buffer": lambda model: setattr(model, "table", torch.zeros(2)),
    "a buffer's content": lambda model: model.get_buffer("table").add_(1),
    "random numbers": lambda model: torch.randn(2),
    "random numbers of a device": lambda model: torch.randn(2, device="npu:0"),
}


@pytest.mark.usefixtures("simulated_machine")
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("inference", [True, False])
def test_each_change_is_seen(change: Callable[[Model], object], inference: bool) -> None:
    model = Model()
    with torch.inference_mode(inference):
        effects = SideEffects(model, [torch.device("npu:0")])
        change(model)
        assert effects.have_happened()


@pytest.mark.usefixtures("simulated_machine")
def test_an_ordinary_forward_leaves_nothing_behind() -> None:
    model = Model()
    with torch.inference_mode():
        effects = SideEffects(model, [torch.device("npu:0"), torch.device("cpu")])
        model.layer(torch.ones(2))
        assert not effects.have_happened()
