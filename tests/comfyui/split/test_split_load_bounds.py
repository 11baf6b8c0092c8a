"""What loading a split model takes at most, by the simulated accelerators' accounting, and what a failure leaves."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from multigpu.testing import HostMemoryMeter, SimulatedDevice

from ..support.in_process import ComfyUI
from ..support.split_models import MODES, Sampler, model_management, weights_of, write_split_models

SPLITS = ("bytes", "ratio", "contiguous", "all but the heads elsewhere")


@pytest.fixture(params=["flux", "wan"])
def sampler(request: pytest.FixtureRequest, comfyui: ComfyUI) -> Sampler:
    write_split_models(comfyui)
    return Sampler(comfyui, request.param)


def _load(comfyui: ComfyUI, model: Any) -> HostMemoryMeter:
    """Load a model as sampling does, with every peak starting from here."""
    comfyui.machine.reset_peaks()
    with HostMemoryMeter() as host:
        model_management().load_models_gpu([model])
    return host


def _shares(model: Any) -> dict[str, int]:
    shares: dict[str, int] = model.placement.distribution.plan.bytes_by_device
    return shares


def _largest_block(model: Any) -> int:
    largest: int = model.placement.distribution.inventory.largest_block_bytes
    return largest


def _slack_on_compute(model: Any) -> int:
    """One block is patched there at a time while the model is loaded; then comes the staging that the plan names."""
    staging: int = model.placement.distribution.plan.staging_bytes
    return max(staging, _largest_block(model))


@pytest.mark.parametrize("mode", SPLITS)
def test_no_device_ever_holds_more_than_its_share_and_one_block_or_the_staging(
    sampler: Sampler, comfyui: ComfyUI, mode: str
) -> None:
    split = sampler.split(**MODES[mode])
    _load(comfyui, split)
    shares = _shares(split)
    slack = dict.fromkeys(shares, _largest_block(split)) | {"npu:0": _slack_on_compute(split)}
    for device in comfyui.machine.devices:
        assert device.peak_bytes <= shares.get(device.name, 0) + slack.get(device.name, 0), device.name


@pytest.mark.parametrize("mode", SPLITS)
def test_host_memory_never_holds_more_than_the_file_its_share_and_one_block(
    sampler: Sampler, comfyui: ComfyUI, mode: str
) -> None:
    split = sampler.split(**MODES[mode])
    host = _load(comfyui, split)
    assert host.peak_bytes <= 1.05 * _shares(split).get("cpu", 0) + _largest_block(split)


def test_what_is_streamed_from_host_memory_is_page_locked_from_the_first_load_on(
    sampler: Sampler, comfyui: ComfyUI
) -> None:
    split = sampler.split(**MODES["ratio"])
    locked = comfyui.framework.context.host.pinned
    _load(comfyui, split)
    stored = dict(split.model.named_parameters())
    blocks = [p.block for p in split.placement.distribution.plan.streamed if p.device == "cpu"]
    names = [name for block in blocks for name in block.parameters]
    assert names and all(locked.holds(stored[name]) for name in names)
    _load(comfyui, split)
    assert all(value is stored[name] for name, value in split.model.named_parameters()), "and then left alone"


def test_a_lora_keeps_the_compute_device_within_the_same_bounds(sampler: Sampler, comfyui: ComfyUI) -> None:
    """Of the blocks, that is. Core's patching takes about five times a weight's bytes for a moment, and in a model this
    tiny one input layer is as large as a block; in a real one the largest weight of a block is a tenth of it."""
    split = sampler.with_lora(sampler.split(**MODES["ratio"]), 0.7, f"{sampler.architecture} blocks")
    _load(comfyui, split)
    compute = comfyui.machine.devices[0]
    assert compute.peak_bytes <= _shares(split)["npu:0"] + _slack_on_compute(split)


def test_with_a_lora_host_memory_holds_the_file_and_the_patched_weights_stored_there(
    sampler: Sampler, comfyui: ComfyUI
) -> None:
    split = sampler.with_lora(sampler.split(**MODES["ratio"]), 0.7, sampler.architecture)
    host = _load(comfyui, split)
    assert host.peak_bytes <= _shares(split)["cpu"] + _largest_block(split)


def test_each_device_s_share_is_within_one_block_of_what_was_asked(sampler: Sampler, comfyui: ComfyUI) -> None:
    split = sampler.split(expert_mode_allocations="npu:0,35%;npu:1,40%;cpu,25%")
    _load(comfyui, split)
    inventory = split.placement.distribution.inventory
    for device, percent in {"npu:0": 35, "npu:1": 40, "cpu": 25}.items():
        asked = inventory.total_bytes * percent / 100
        assert abs(_shares(split)[device] - asked) <= max(inventory.largest_block_bytes, inventory.head_bytes - asked)


def test_thirty_loads_in_a_row_leave_nothing_behind(comfyui: ComfyUI) -> None:
    split = Sampler(comfyui, "flux").split(**MODES["ratio"])
    with HostMemoryMeter() as host:
        for _ in range(30):
            model_management().load_models_gpu([split])
            split.detach()
            assert comfyui.held_bytes() == [0, 0, 0]
        assert host.live_bytes <= sum(value.nbytes for value in split.model.state_dict().values())
    model_management().current_loaded_models.clear()


def test_a_load_that_runs_out_of_memory_leaves_everything_as_it_was(
    sampler: Sampler, comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = sampler.split(**MODES["ratio"])
    before = weights_of(split)
    donor: SimulatedDevice = comfyui.machine.devices[1]

    def shrunk(wanted_bytes: int) -> None:
        if donor.live_bytes + wanted_bytes > 500_000:
            raise torch.OutOfMemoryError("the donor is smaller than it said")

    with monkeypatch.context() as patched:
        patched.setattr(donor, "require", shrunk)
        with pytest.raises(torch.OutOfMemoryError):
            model_management().load_models_gpu([split])
    assert comfyui.held_bytes() == [0, 0, 0]
    after = weights_of(split)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in split.model.modules())
    expected = sampler.picture(sampler.whole())
    assert torch.equal(sampler.picture(split), expected)


def test_an_error_inside_a_block_leaves_every_weight_where_it_was(sampler: Sampler) -> None:
    split = sampler.split(**MODES["ratio"])
    expected = sampler.picture(split)
    stored = dict(split.model.named_parameters())
    block = split.placement.distribution.plan.offloaded[0].block
    inner = split.model.get_submodule(block.parameters[-1].rpartition(".")[0])

    def failing(module: torch.nn.Module, args: object) -> None:
        raise ValueError("a broken extension")

    handle = inner.register_forward_pre_hook(failing)
    with pytest.raises(ValueError, match="a broken extension"):
        sampler.picture(split)
    assert all(value is stored[name] for name, value in split.model.named_parameters())
    handle.remove()
    assert torch.equal(sampler.picture(split), expected)
