"""A planner plugin gets what the hook's docstring says, for drafts and for loads."""

from __future__ import annotations

from typing import Any

from multigpu import hookimpl
from multigpu.api import HardwareProfile, is_split

from ..support.in_process import ComfyUI
from ..support.outputs import sampled

FLUX = {"unet_name": "flux.safetensors", "weight_dtype": "default"}


class Recorder:
    """Leaves every plan to others and keeps what it was given."""

    def __init__(self) -> None:
        self.calls: list[tuple[bool, dict[str, int], object]] = []

    @hookimpl
    def multigpu_plan_allocation(self, devices: Any, profile: Any, draft: bool) -> None:
        self.calls.append((draft, {info.name: info.free_bytes for info in devices}, profile))


def test_drafts_are_marked_and_every_call_has_the_profile(comfyui: ComfyUI) -> None:
    recorder, plugins = Recorder(), comfyui.framework.plugins
    plugins.register(recorder, "recorder")
    try:
        (model,) = comfyui.run(
            "UNETLoaderDisTorch2MultiGPU",
            **FLUX,
            compute_device="npu:0",
            virtual_vram_gb=0.0005,
            donor_device="npu:1",
        )
        assert recorder.calls and all(draft for draft, *_ in recorder.calls), "nothing is loaded yet"
        assert is_split(model) and not is_split(comfyui.run("UNETLoader", **FLUX)[0])
        sampled(comfyui, model)
    finally:
        plugins.fail("recorder", RuntimeError("the test has ended"))
        del plugins.records["recorder"]
    assert all(isinstance(profile, HardwareProfile) for *_, profile in recorder.calls)
    registry = comfyui.framework.context.host.registry
    totals = {name: registry.total_bytes(name) for name in ("npu:0", "npu:1", "cpu")}
    assert all(free == totals for draft, free, _ in recorder.calls if draft)
    (loaded,) = [free for draft, free, _ in recorder.calls if not draft]
    assert all(loaded[name] <= total for name, total in totals.items())
