"""Whatever fails, at whatever copy or allocation: the model is whole, nothing is left, and the next run is right."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from multigpu.multigpu_core.simulation.machine import SimulatedMachine
from multigpu.multigpu_core.simulation.memory.ledger import SimulatedDevice
from multigpu.multigpu_core.simulation.timeline import Timeline

from ..support.in_process import ComfyUI
from ..support.split_models import Sampler, model_management, weights_of

MB = 2**20
SPLITS = {
    "streamed": {"expert_mode_allocations": "npu:0,60%;npu:1,20%;cpu,20%"},
    "relayed": {"expert_mode_allocations": "npu:0,50%;npu:1,30%;cpu,20%", "strategy": "relay"},
}
EXPECTED = (RuntimeError, KeyboardInterrupt)
EVERYWHERE = "MULTIGPU_FAULTS_EVERYWHERE"
"""Names a file for the counts where every step is to fail in turn, as benchmarks/faults.py wants it."""
EVERY_ERROR = "MULTIGPU_FAULTS_EVERY_ERROR"
"""Set where each of them is to fail with every error, not with the next of them."""
WHERE_IT_FAILS = ((SimulatedDevice, "charge"), (Timeline, "copied"), (SimulatedMachine, "empty_pinned"))


class BrokenError(RuntimeError):
    """An error that nobody expects."""


def _interrupt() -> BaseException:
    """ComfyUI's, which is no Exception in newer releases."""
    error: BaseException = model_management().InterruptProcessingException()
    return error


ERRORS: dict[str, Callable[[], BaseException]] = {
    "out of memory": partial(torch.OutOfMemoryError, "NPU out of memory"),
    "an unexpected error": BrokenError,
    "ComfyUI's interrupt": _interrupt,
    "Ctrl-C": KeyboardInterrupt,
}


@contextmanager
def failing(at: int | None, error: Callable[[], BaseException]) -> Iterator[list[int]]:
    """Raise at the `at`-th copy or allocation of a device or of pinned memory; yields their count so far."""
    count = [0]

    def counted(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        count[0] += 1
        if at is not None and count[0] == at:
            raise error()
        return original(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in WHERE_IT_FAILS:
            original = getattr(owner, name)
            patch.setattr(owner, name, lambda *args, _of=original, **kwargs: counted(_of, *args, **kwargs))
        yield count


@dataclass(frozen=True)
class Scene:
    """A split model and what users do with it, each by a name."""

    name: str
    comfyui: ComfyUI
    sampler: Sampler
    split: Any
    expected: torch.Tensor
    weights: dict[str, torch.Tensor]

    def prepare(self, deed: str) -> None:
        """Bring about what the deed starts from."""
        self.comfyui.reset()
        if deed != "load":
            model_management().load_models_gpu([self.split])

    def do(self, deed: str) -> None:
        mm = model_management()
        if deed == "load":
            mm.load_models_gpu([self.split])
        elif deed == "load with a LoRA":
            mm.load_models_gpu([self.sampler.with_lora(self.split, 0.7)])
        elif deed == "demotion":
            self.split.partially_unload(self.split.offload_device, MB)
        elif deed == "release":
            mm.free_memory(1e30, torch.device("npu:0"))
        else:
            self.sampler.picture(self.split)

    def is_whole(self) -> None:
        """Nothing is lost, and nothing is held that the model does not account for."""
        distribution, pinned = self.split.placement.distribution, self.comfyui.framework.context.host.pinned
        sizes = distribution.bytes_by_device()
        held = [sizes.get(f"npu:{index}", 0) for index in range(3)]
        uncounted = sum(slot.tensor.nbytes for slot in distribution._uncounted if slot.tensor.device.type != "cpu")
        live = self.comfyui.held_bytes()
        assert sum(live) - sum(held) in range(distribution.staging_bytes, distribution.staging_bytes + uncounted + 1)
        assert sum(sizes.values()) == distribution.inventory.total_bytes
        assert self.split.loaded_size() == self.split.placement.compute_bytes_loaded or distribution.plan is None
        if distribution.plan is None:
            assert live == [0, 0, 0]
            assert pinned.locked_bytes == 0
            assert not any(m._forward_pre_hooks or m._forward_hooks for m in self.split.model.modules())
        assert torch.npu.current_device() == 0  # type: ignore[attr-defined]

    def weights_are_the_file_s(self) -> None:
        now = weights_of(self.split)
        assert all(torch.equal(now[name], weight) for name, weight in self.weights.items())


@pytest.fixture(params=SPLITS)
def scene(comfyui: ComfyUI, request: pytest.FixtureRequest) -> Iterator[Scene]:
    sampler = Sampler(comfyui, "flux")
    split = sampler.split(**SPLITS[request.param])
    weights = weights_of(split)
    expected = sampler.picture(split)
    yield Scene(request.param, comfyui, sampler, split, expected, weights)


DEEDS = ("load", "load with a LoRA", "demotion", "release", "forward")


@pytest.mark.parametrize("cases", [10, pytest.param(300, marks=pytest.mark.long)])
def test_after_a_failure_at_any_copy_or_allocation_the_model_is_whole_and_the_next_picture_right(
    scene: Scene, cases: int
) -> None:
    steps: dict[str, int] = {}
    for deed in DEEDS:
        scene.prepare(deed)
        with failing(None, BrokenError) as count:
            scene.do(deed)
        steps[deed] = count[0]
        assert count[0] > 0, f"{deed} touches nothing"

    def fails(deed: str, at: int, error: str) -> None:
        scene.prepare(deed)
        with suppress(*EXPECTED, type(_interrupt())), failing(at, ERRORS[error]):
            scene.do(deed)
        scene.is_whole()
        assert torch.equal(scene.sampler.picture(scene.split), scene.expected)
        scene.comfyui.reset()
        scene.is_whole()
        scene.weights_are_the_file_s()

    if report := os.environ.get(EVERYWHERE):
        with Path(report).open("a") as file:
            for deed in DEEDS:
                every = os.environ.get(EVERY_ERROR)
                every_case = [
                    (at, error)
                    for at in range(1, steps[deed] + 1)
                    for number, error in enumerate(ERRORS)
                    if every or at % len(ERRORS) == number
                ]
                for at, error in every_case:
                    fails(deed, at, error)
                file.write(json.dumps({"scene": scene.name, "deed": deed, "survived": len(every_case)}) + "\n")
        return

    @settings(max_examples=cases, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(DEEDS), st.floats(0, 1, exclude_max=True), st.sampled_from(sorted(ERRORS)))
    def fails_somewhere(deed: str, when: float, error: str) -> None:
        fails(deed, 1 + int(when * steps[deed]), error)

    fails_somewhere()
