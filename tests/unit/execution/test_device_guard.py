"""A model's compute device is the current one while it runs, compiled or not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from multigpu.multigpu_core.devices import default_registry
from multigpu.multigpu_core.execution.device_guard import CurrentDevice
from multigpu.multigpu_core.execution.parallel.alternation import Alternation
from multigpu.testing import SimulatedMachine


class Model(nn.Module):
    def __init__(self, machine: SimulatedMachine) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4).requires_grad_(False)
        self.current: list[int] = []
        note = torch.compiler.disable(lambda *_: self.current.append(machine.module.current_device()))
        self.layer.register_forward_pre_hook(note)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y


@pytest.mark.parametrize("is_compiled", [False, True])
def test_the_compute_device_is_the_current_one_while_the_model_runs(
    simulated_machine: SimulatedMachine, is_compiled: bool
) -> None:
    model = Model(simulated_machine).to("npu:1")
    CurrentDevice(default_registry(), "npu:1").attach(model)
    run = torch.compile(model, backend="eager") if is_compiled else model
    counters.clear()
    for _ in range(3):
        run(torch.zeros(1, 4, device="npu:1"))
    assert model.current == [1, 1, 1] and simulated_machine.module.current_device() == 0
    assert counters["frames"]["total"] < 10, "nothing but the model is compiled"


def test_each_thread_has_its_own_device_back(simulated_machine: SimulatedMachine) -> None:
    """Two halves of a step run the model at the same time."""
    devices, alternation = simulated_machine.module, Alternation[int]()
    model = nn.Linear(1, 1)
    model.forward = lambda: alternation.hand_over()  # type: ignore[method-assign]
    hooks = CurrentDevice(default_registry(), "npu:1")
    hooks.attach(nn.Sequential(model))

    def call(device: int) -> int:
        with devices.device(device):
            model()
            return devices.current_device()

    assert alternation.run(lambda: call(0), lambda: call(1)) == [0, 1]
