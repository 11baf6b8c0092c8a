"""The inventory, splits and relays on the architectures that ComfyUI really builds.

Inventories are made at the real sizes, without weights. Outputs are compared on small models of the same classes.
"""

from __future__ import annotations

import gc
import importlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from packaging.version import Version

from multigpu.multigpu_core.allocation import BlockKind, Strategy
from multigpu.multigpu_core.provisioning.in_process import ComfyUI

from ..support.architecture_trials import Report, Trial, movable, report
from ..support.architectures import ARCHITECTURES, DIFFUSION, NOT_BUILT

COMPARED = [name for name, architecture in ARCHITECTURES.items() if architecture.inputs is not None]
ORDER_DIFFERS = frozenset({"TripoSplat"})
"""It runs its noise refiner first; the others with these names run their context refiner first."""


@pytest.fixture(autouse=True)
def _comfyui(simulated_comfyui: ComfyUI) -> Iterator[ComfyUI]:
    """A ComfyUI that computes on one thread: kernels round by the number of threads, which changes with the load."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield simulated_comfyui
    torch.set_num_threads(threads)


@cache
def made(name: str, folder: Path) -> Report | str:
    """The report on an architecture, or why this ComfyUI has none."""
    since, here = ARCHITECTURES[name].since, importlib.import_module("comfyui_version").__version__
    if since and Version(here) < Version(since):
        return f"it needs ComfyUI {since}, and this is {here}"
    try:
        return report(ARCHITECTURES[name], folder / "model.safetensors")
    except (ImportError, AttributeError, TypeError) as error:
        return f"{type(error).__name__}: {error}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("inventories")


@pytest.fixture(params=list(ARCHITECTURES))
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def real(architecture: str, folder: Path) -> Report:
    found = made(architecture, folder)
    if isinstance(found, str):
        pytest.skip(f"this ComfyUI has no such model: {found}")
    return found


def test_nearly_every_architecture_is_in_this_comfyui(folder: Path) -> None:
    missing = {name: found for name in ARCHITECTURES if isinstance(found := made(name, folder), str)}
    assert len(missing) < len(ARCHITECTURES) / 2, missing


def test_every_parameter_is_in_exactly_one_block(real: Report) -> None:
    held = [name for block in real.live.blocks for name in block.parameters]
    assert sorted(held) == sorted(real.parameters)
    assert real.live.total_bytes == real.file.total_bytes == real.state_bytes


def test_a_live_model_and_its_file_have_the_same_blocks(real: Report) -> None:
    def sizes(inventory: object) -> list[tuple[str, BlockKind, int]]:
        return sorted((block.name, block.kind, block.size_bytes) for block in inventory.blocks)  # type: ignore[attr-defined]

    assert sizes(real.live) == sizes(real.file)


def test_nearly_all_bytes_may_move_in_blocks_that_are_small_and_called(architecture: str, real: Report) -> None:
    names = movable(real.live)
    assert len(names) >= 10
    assert set(names) <= real.callable
    assert max(block.size_bytes for block in real.live.blocks if block.name in names) < 0.13 * real.state_bytes
    embeddings = [
        block.size_bytes
        for block in real.live.blocks
        if block.kind is BlockKind.HEAD
        and (block.name.endswith(("embed_tokens", "token_embedding", "lm_head")) or block.name == "shared")
    ]
    declared = ARCHITECTURES[architecture]
    if declared.keeps_vocabulary:
        assert real.movable_share < declared.movable_share
        assert real.live.head_bytes - sum(embeddings) < 0.05 * real.state_bytes
    else:
        assert real.movable_share >= declared.movable_share


@pytest.fixture
def trial(architecture: str, real: Report, _comfyui: ComfyUI) -> Iterator[Trial]:
    """The architecture in small; afterwards nothing of it is left on a device."""
    trial = Trial(ARCHITECTURES[architecture])
    yield trial
    trial.close()


@pytest.mark.parametrize("architecture", COMPARED, indirect=True)
def test_blocks_are_in_the_order_of_a_forward_and_a_split_and_a_relay_compute_the_same(
    architecture: str, trial: Trial
) -> None:
    assert all(value.isfinite().all() for value in trial.expected)
    called = [name for name in movable(trial.inventory) if name in trial.called]
    assert len(called) >= 2
    assert (trial.called == called) == (architecture not in ORDER_DIFFERS)
    with trial.split("npu:0,30%;npu:1,30%;cpu,40%", Strategy.INTERLEAVE) as plan:
        assert {"cpu"} < plan.bytes_by_device.keys()
        for _ in range(2):  # what is learned in the first forward is copied ahead in the second
            assert all(map(torch.equal, trial.output(), trial.expected))
    if ARCHITECTURES[architecture].not_relayed:
        return
    with trial.split("npu:0,50%;npu:1,50%", Strategy.RELAY) as plan:
        assert any(placement.relayed for placement in plan.placements)
        assert all(map(torch.equal, trial.output(), trial.expected))


def test_nothing_of_the_small_models_is_left_on_a_device(simulated_comfyui: ComfyUI) -> None:
    gc.collect()
    assert [device.live_bytes for device in simulated_comfyui.machine.devices] == [0, 0, 0]


def test_every_model_that_comfyui_supports_has_an_architecture_or_a_reason() -> None:
    known = {entry.__name__ for entry in importlib.import_module("comfy.supported_models").models}
    served = [entry for architecture in DIFFUSION.values() for entry in architecture.serves]
    assert len(served) == len(set(served)), "an entry is served twice"
    assert known - {*served} <= NOT_BUILT.keys() and not NOT_BUILT.keys() & {*served}
