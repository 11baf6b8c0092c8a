"""The current device of simulated machines: kernels that launch there, and tensors that go there."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

from multigpu.testing import SimulatedMachine, WrongCurrentDeviceError


def test_a_kernel_that_launches_on_the_current_device_needs_that_of_its_tensors(
    simulated_machine: SimulatedMachine,
) -> None:
    simulated_machine.raw_pointer_operators.add("aten::mul*")
    there = torch.ones(2, device="npu:1")
    with pytest.raises(WrongCurrentDeviceError, match=r"aten::mul got tensors on npu:1 while npu:0 is the current"):
        there * 2
    with torch.npu.device(1):
        there * 2
        with pytest.raises(WrongCurrentDeviceError, match="npu:0 while npu:1"):
            torch.ones(2, device="npu:0") * 2
    there + 2  # torch's own operators look at their tensors


def test_a_test_s_own_kernels_can_be_checked_as_well(simulated_machine: SimulatedMachine) -> None:
    def dequantize(codes: torch.Tensor) -> torch.Tensor:
        simulated_machine.check_launch("kitchen::dequantize", codes)
        return codes.float()

    codes = torch.ones(2, dtype=torch.int8, device="npu:1")
    with pytest.raises(WrongCurrentDeviceError, match="kitchen::dequantize"):
        dequantize(codes)
    with torch.npu.device(1):
        assert dequantize(codes).tolist() == [1, 1]


def test_a_new_machine_s_operators_all_look_at_their_tensors(simulated_machine: SimulatedMachine) -> None:
    simulated_machine.raw_pointer_operators.add("*")
    simulated_machine.configure([2**20, 2**20])
    torch.ones(2, device="npu:1") * 2


def test_a_device_without_a_number_is_the_current_one(simulated_machine: SimulatedMachine) -> None:
    host, first = torch.ones(2), torch.ones(2, device="npu:0")
    assert host.to("npu").device == torch.device("npu:0")
    with torch.npu.device(1):
        for moved in (
            host.to("npu"),
            host.to(device="npu"),
            host.to(torch.device("npu"), torch.float16),
            first.to("npu"),
        ):
            assert moved.device == torch.device("npu:1")
        assert nn.Linear(2, 2).to("npu").weight.device == torch.device("npu:1")
        assert host.to("npu:0").device == host.to(first).device == torch.device("npu:0")
        assert host.to(torch.float16).device == host.to("cpu").device == torch.device("cpu")


@pytest.mark.parametrize("location", ["npu:1", {"cpu": "npu:1"}])
def test_files_load_to_a_device(simulated_machine: SimulatedMachine, location: object) -> None:
    file = io.BytesIO()
    torch.save({"dense": torch.arange(4.0), "strided": torch.arange(6).view(2, 3).t()}, file)
    file.seek(0)
    loaded = torch.load(file, map_location=location)
    assert {tensor.device for tensor in loaded.values()} == {torch.device("npu:1")}
    assert loaded["dense"].tolist() == [0, 1, 2, 3] and loaded["strided"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert simulated_machine.devices[1].live_bytes == 16 + 48


def test_a_file_that_was_saved_on_a_device_loads_there_or_on_the_cpu(simulated_machine: SimulatedMachine) -> None:
    file = io.BytesIO()
    torch.save(torch.ones(2, device="npu:1"), file)
    for location, device in ((None, "npu:1"), ("cpu", "cpu")):
        file.seek(0)
        assert torch.load(file, map_location=location).device == torch.device(device)


def test_a_file_does_not_load_to_a_device_that_is_not_there(simulated_machine: SimulatedMachine) -> None:
    file = io.BytesIO()
    torch.save(torch.ones(2), file)
    file.seek(0)
    with pytest.raises(RuntimeError, match="this simulated machine has 2 devices"):
        torch.load(file, map_location="npu:7")
