"""What simulated accelerators do with memory, copies and mistakes, as a real machine with several cards would."""

from __future__ import annotations

import copy
import gc
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from multigpu.testing import CopyRecord, SimulatedMachine, SimulationUnavailableError, simulate, simulated

MB = 1024**2


def test_the_machine_has_as_many_devices_as_asked_with_their_names_and_sizes(
    simulated_machine: SimulatedMachine,
) -> None:
    simulated_machine.configure([8 * MB, 4 * MB, MB], names=["big", "middle", "small"])
    assert torch.npu.device_count() == 3
    assert [torch.npu.get_device_name(index) for index in range(3)] == ["big", "middle", "small"]
    assert [torch.npu.mem_get_info(index) for index in range(3)] == [(size, size) for size in (8 * MB, 4 * MB, MB)]


def test_asking_for_a_device_that_is_not_there_says_how_many_there_are(simulated_machine: SimulatedMachine) -> None:
    with pytest.raises(RuntimeError, match="invalid device ordinal 2; this simulated machine has 2 devices"):
        torch.zeros(1, device="npu:2")


def test_tensors_on_two_devices_do_not_mix(simulated_machine: SimulatedMachine) -> None:
    here, there = torch.ones(2, device="npu:0"), torch.ones(2, device="npu:1")
    with pytest.raises(RuntimeError, match=r"Expected all tensors to be on the same device.* npu:0 and npu:1"):
        here + there
    with pytest.raises(RuntimeError, match=r"Expected all tensors to be on the same device.* npu:0 and cpu"):
        nn.functional.linear(torch.ones(1, 2), torch.ones(2, 2, device="npu:0"))
    with pytest.raises(RuntimeError, match="same device"):
        torch.cat([there, torch.ones(2)])


def test_single_numbers_and_indices_may_stay_on_the_cpu(simulated_machine: SimulatedMachine) -> None:
    values = torch.arange(4.0, device="npu:1")
    assert (values * torch.tensor(2.0)).tolist() == [0, 2, 4, 6]
    assert values[torch.tensor([3, 0])].tolist() == [3, 0]


def test_a_single_number_on_one_device_does_not_mix_with_another(simulated_machine: SimulatedMachine) -> None:
    with pytest.raises(RuntimeError, match="same device"):
        torch.ones(2, device="npu:0") * torch.tensor(2.0, device="npu:1")


def test_every_copy_between_devices_is_logged_with_its_bytes(simulated_machine: SimulatedMachine) -> None:
    on_host = torch.ones(3, 5, dtype=torch.bfloat16)
    on_first = on_host.to("npu:0")
    on_second = torch.empty_like(on_first, device="npu:1")
    on_second.copy_(on_first)
    on_second.cpu()
    assert simulated_machine.copies.records == (
        CopyRecord("cpu", "npu:0", 30, torch.bfloat16),
        CopyRecord("npu:0", "npu:1", 30, torch.bfloat16),
        CopyRecord("npu:1", "cpu", 30, torch.bfloat16),
    )
    assert simulated_machine.copies.bytes_moved("npu:0") == 30
    assert simulated_machine.copies.bytes_moved(destination="cpu") == 30
    assert simulated_machine.copies.bytes_moved() == 90


def test_work_within_one_device_is_no_copy(simulated_machine: SimulatedMachine) -> None:
    values = torch.ones(8, device="npu:0")
    values.clone().add_(values).to(torch.float16).contiguous()
    assert simulated_machine.copies.records == ()


def test_bytes_are_given_back_the_moment_a_tensor_is_freed(simulated_machine: SimulatedMachine) -> None:
    device = simulated_machine.devices[0]
    kept, freed = torch.zeros(MB, device="npu:0"), torch.zeros(2 * MB, device="npu:0")
    assert device.live_bytes == 12 * MB
    del freed
    assert (device.live_bytes, device.peak_bytes) == (4 * MB, 12 * MB)
    simulated_machine.reset_peaks()
    assert device.peak_bytes == kept.nbytes


def test_views_share_their_storage_and_count_once(simulated_machine: SimulatedMachine) -> None:
    device = simulated_machine.devices[0]
    whole = torch.zeros(256, 4, device="npu:0")
    view = whole.t()[1:2].reshape(16, 16)[::2]
    assert device.live_bytes == whole.nbytes == view.untyped_storage().nbytes()
    view.fill_(1)
    assert whole.sum().item() == view.numel()
    del whole
    assert device.live_bytes == 4096, "the view keeps the whole storage alive"
    del view
    assert device.live_bytes == 0


def test_a_dtype_view_sees_the_same_bytes(simulated_machine: SimulatedMachine) -> None:
    values = torch.tensor([1.0, -1.0], device="npu:0")
    assert values.view(torch.int32).tolist() == [0x3F800000, 0x3F800000 - 2**31]
    assert values.view(torch.uint8).untyped_storage().data_ptr() == values.untyped_storage().data_ptr()


def test_a_full_device_runs_out_of_memory_and_counts_nothing(simulated_machine: SimulatedMachine) -> None:
    simulated_machine.configure([MB, MB])
    device = simulated_machine.devices[0]
    held = torch.ones(150_000, device="npu:0")
    with pytest.raises(torch.OutOfMemoryError, match=r"NPU out of memory\. Tried to allocate .* npu:0"):
        held * 2
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(1 << 40, device="npu:0")
    assert device.live_bytes == held.nbytes == device.peak_bytes
    held.mul_(2)
    assert held[0].item() == 2
    assert torch.ones(150_000, device="npu:1").device.index == 1


def test_growing_a_tensor_in_place_charges_the_difference(simulated_machine: SimulatedMachine) -> None:
    values = torch.arange(4, device="npu:0")
    values.resize_(8)
    assert values[:4].tolist() == [0, 1, 2, 3]
    assert simulated_machine.devices[0].live_bytes == 64


def test_moving_a_module_keeps_its_parameters_and_empties_the_host_side(simulated_machine: SimulatedMachine) -> None:
    module = nn.Linear(8, 4)
    weight = module.weight
    module.to("npu:1")
    assert module.weight is weight and type(weight) is nn.Parameter
    assert simulated_machine.devices[1].live_bytes == (8 * 4 + 4) * 4
    module.to("cpu")
    assert module.weight is weight
    assert simulated_machine.devices[1].live_bytes == 0


class _EveryKind(nn.Module):
    """The kinds of layer that ComfyUI's models are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 32, 3, padding=1)
        self.group_norm = nn.GroupNorm(8, 32)
        self.embedding = nn.Embedding(16, 32)
        self.layer_norm = nn.LayerNorm(32)
        self.rms_norm = nn.RMSNorm(32)
        self.linear = nn.Linear(32, 32)

    def forward(self, image: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        pixels = nn.functional.silu(self.group_norm(self.convolution(image))).flatten(2).transpose(1, 2)
        pixels = self.layer_norm(pixels) + self.rms_norm(self.embedding(tokens)).mean(1, keepdim=True)
        heads = self.linear(pixels).unflatten(-1, (4, 8)).transpose(1, 2)
        mixed = nn.functional.scaled_dot_product_attention(heads, heads, heads).softmax(-1)
        return nn.functional.interpolate(mixed.flatten(2), scale_factor=2).cumsum(-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("inference", [True, False])
def test_a_module_gives_the_same_numbers_as_on_the_cpu(
    simulated_machine: SimulatedMachine, dtype: torch.dtype, inference: bool
) -> None:
    torch.manual_seed(0)
    module = _EveryKind().to(dtype)
    image, tokens = torch.randn(2, 3, 6, 6, dtype=dtype), torch.randint(16, (2, 5))
    with torch.inference_mode(inference):
        expected = module(image, tokens)
        simulated = copy.deepcopy(module).to("npu:1")(image.to("npu:1"), tokens.to("npu:1"))
    assert simulated.device == torch.device("npu:1")
    assert torch.equal(simulated.cpu(), expected)


def test_a_deep_copy_is_a_second_tensor_on_the_same_device(simulated_machine: SimulatedMachine) -> None:
    original = nn.Parameter(torch.ones(4, device="npu:1"), requires_grad=False)
    duplicate = copy.deepcopy(original)
    duplicate.zero_()
    assert original.tolist() == [1, 1, 1, 1] and type(duplicate) is nn.Parameter
    assert simulated_machine.devices[1].live_bytes == 32


def test_data_of_a_parameter_can_be_exchanged_for_a_tensor_elsewhere(simulated_machine: SimulatedMachine) -> None:
    parameter = nn.Parameter(torch.ones(4))
    parameter.data = torch.zeros(2, device="npu:0")
    assert parameter.device.type == "npu" and parameter.tolist() == [0, 0]
    parameter.data = parameter.data.cpu()
    assert parameter.device.type == "cpu"
    assert simulated_machine.devices[0].live_bytes == 0


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float16])
def test_small_dtypes_keep_their_bits_on_the_way(simulated_machine: SimulatedMachine, dtype: torch.dtype) -> None:
    values = torch.linspace(-3, 3, 9).to(dtype)
    there_and_back = values.to("npu:0").to("npu:1").cpu()
    assert torch.equal(there_and_back.float(), values.float()) and there_and_back.dtype == dtype
    assert torch.equal(values.to("npu:0").float().cpu(), values.float())


def test_safetensors_load_straight_to_a_device(simulated_machine: SimulatedMachine, tmp_path: Path) -> None:
    save_file({"weight": torch.arange(6.0).reshape(2, 3)}, tmp_path / "file.safetensors")
    loaded = load_file(tmp_path / "file.safetensors", device="npu:1")
    assert loaded["weight"].device == torch.device("npu:1") and loaded["weight"].sum().item() == 15
    assert simulated_machine.devices[1].live_bytes == 24


def test_a_generator_of_the_device_repeats_its_numbers(simulated_machine: SimulatedMachine) -> None:
    generator = torch.Generator(device="npu:1")
    assert generator.device == torch.device("npu:1")
    draws = [torch.rand(3, generator=generator.manual_seed(5), device="npu:1").tolist() for _ in range(2)]
    assert draws[0] == draws[1] == torch.rand(3, generator=torch.Generator().manual_seed(5)).tolist()
    assert isinstance(torch.default_generator, torch.Generator)


def test_seeding_torch_seeds_the_devices_without_drawing_from_the_cpu(simulated_machine: SimulatedMachine) -> None:
    torch.manual_seed(3)
    on_device = torch.randn(4, device="npu:0").cpu()
    assert torch.equal(torch.randn(4), on_device)


def test_the_current_device_is_where_an_unnumbered_device_points(simulated_machine: SimulatedMachine) -> None:
    assert torch.zeros(1, device="npu").device == torch.device("npu:0")
    with torch.npu.device(1):
        assert torch.zeros(1, device="npu").device == torch.device("npu:1")
    assert torch.npu.current_device() == 0


def test_gradients_flow_on_the_first_device(simulated_machine: SimulatedMachine) -> None:
    query = torch.randn(1, 2, 4, 8)
    expected, simulated = query.clone().requires_grad_(), query.to("npu:0").requires_grad_()
    for leaf in (expected, simulated):
        nn.functional.scaled_dot_product_attention(leaf, leaf, leaf).square().sum().backward()
    assert simulated.grad is not None and expected.grad is not None
    assert torch.allclose(simulated.grad.cpu(), expected.grad, atol=1e-6)


def test_after_the_block_the_earlier_devices_are_back(simulated_machine: SimulatedMachine) -> None:
    kept = torch.ones(4, device="npu:1")
    with simulated(sizes=[MB]) as inner:
        assert inner is simulated_machine and torch.npu.device_count() == 1
        lost = torch.ones(4, device="npu:0")
        assert inner.devices[0].live_bytes == 16
    assert torch.npu.device_count() == 2
    assert [device.live_bytes for device in simulated_machine.devices] == [0, kept.nbytes]
    del lost, kept
    gc.collect()
    assert [device.live_bytes for device in simulated_machine.devices] == [0, 0]


def test_a_second_backend_name_in_one_process_is_refused(simulated_machine: SimulatedMachine) -> None:
    with pytest.raises(SimulationUnavailableError, match="this process simulates 'npu'; 'mlu' needs a fresh one"):
        simulate([MB], backend="mlu")


def test_bits_combine_with_plain_numbers_as_on_the_cpu(simulated_machine: SimulatedMachine) -> None:
    values = torch.arange(16, dtype=torch.uint8)
    placed = values.to("npu:0")
    assert torch.equal((placed & 6).cpu(), values & 6)
    assert torch.equal((placed | 3).cpu(), values | 3)
    assert torch.equal((5 ^ placed).cpu(), 5 ^ values)
    placed &= 7
    assert torch.equal(placed.cpu(), values & 7)
