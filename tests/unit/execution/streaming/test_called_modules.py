"""Hooks are on the modules that are called: the outermost ones that have a forward of their own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from multigpu.multigpu_core.execution.streaming.called_modules import called_modules
from multigpu.testing import SimulatedMachine

from .streamed import COMPUTE, WIDTH, Model, inputs, split


class Holder(nn.Module):
    """Without a forward: the model calls what is in it."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(WIDTH, WIDTH)
        self.inner = nn.ModuleList([nn.Linear(WIDTH, WIDTH)])


class HeldModel(Model):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Holder() for _ in range(4))
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = torch.tanh(block.inner[0](block.up(x)))
        return x


def test_of_a_module_without_a_forward_its_parts_are_called() -> None:
    holder = Holder()
    assert list(called_modules(holder)) == [holder.up, holder.inner[0]]
    assert list(called_modules(nn.Sequential(holder.up))) == [holder.up], "also where containers have one"
    assert list(called_modules(holder.up)) == [holder.up]


@pytest.mark.parametrize("device", ["cpu", "npu:1"])
def test_blocks_without_a_forward_are_streamed(simulated_machine: SimulatedMachine, device: str) -> None:
    model = HeldModel()
    resident = HeldModel().to(COMPUTE)
    resident.load_state_dict(model.state_dict())
    split(model, device)
    for _ in range(2):
        assert torch.equal(model(inputs()).cpu(), resident(inputs()).cpu())
