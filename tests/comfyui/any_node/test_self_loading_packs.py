"""Nodes that load their own models, in the five ways of real packs, on the device that their variant is given."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch

from multigpu.multigpu_core.provisioning.in_process import finished

from ..support.in_process import ComfyUI
from ..support.packs_at_hand import import_pack, stand_in

IMAGE = torch.ones(1, 8, 8, 3)
HOME, CHOSEN, OTHER = "npu:0", "npu:1", "npu:2"


class SelfLoading:
    """The stand-in pack in this ComfyUI. Nodes live from call to call, as in ComfyUI's cache."""

    def __init__(self, comfyui: ComfyUI) -> None:
        self.comfyui = comfyui
        self.any_node = comfyui.framework.any_node
        self._nodes: dict[str, Any] = {}

    def run(self, node_id: str, **inputs: Any) -> tuple[Any, ...]:
        node = self.comfyui.nodes.NODE_CLASS_MAPPINGS[node_id]
        held = self._nodes.setdefault(node_id, node())
        return finished(getattr(held, node.FUNCTION)(**inputs))

    def on(self, device: str, node_id: str, **inputs: Any) -> tuple[Any, ...]:
        """Run a node on a device; its variant is made where there is none."""
        choice = self.any_node.choice_for(node_id)
        return self.run(choice.node_id, **{choice.device_input: device}, **inputs)

    def module(self, name: str) -> ModuleType:
        (found,) = (each for key, each in list(sys.modules.items()) if key.endswith(f"self_loading.{name}"))
        return found

    @property
    def loads(self) -> int:
        return int(self.module("network").Network.loads)


@pytest.fixture
def pack(comfyui: ComfyUI) -> Iterator[SelfLoading]:
    before = dict(comfyui.nodes.NODE_CLASS_MAPPINGS)
    for name in [name for name in sys.modules if "self_loading" in name and "test_" not in name]:
        del sys.modules[name]
    import_pack(comfyui, stand_in("self_loading"))
    yield SelfLoading(comfyui)
    comfyui.nodes.NODE_CLASS_MAPPINGS.clear()
    comfyui.nodes.NODE_CLASS_MAPPINGS.update(before)
    comfyui.framework.any_node.release()


def test_a_model_in_the_node_object_stays_on_its_device_and_is_not_loaded_again(pack: SelfLoading) -> None:
    assert pack.run("SelfCaption", image=IMAGE, words="x")[0] == "x on npu:0, npu:0"
    for device in (CHOSEN, OTHER, CHOSEN):
        text, image = pack.on(device, "SelfCaption", image=IMAGE, words="x")
        assert text == f"x on {device}, {device}"
        assert image.device.type == "cpu" and torch.equal(image, IMAGE / 2)
    assert pack.run("SelfCaption", image=IMAGE, words="x")[0] == "x on npu:0, npu:0"
    assert pack.loads == 3


def test_a_model_in_a_module_is_found_again_by_the_device_that_it_is_on(pack: SelfLoading) -> None:
    frames = {"frames": IMAGE, "model": "small"}
    for device in (CHOSEN, HOME, CHOSEN, OTHER):
        image, places = pack.on(device, "SelfFrames", **frames)
        assert places == f"{device} {device}" and image.device.type == "cpu"
        assert pack.run("SelfFrames", **frames)[1] == f"{HOME} {HOME}"
    assert pack.loads == 3, "one for each device"
    module = pack.module("frames")
    assert torch.device(HOME) == module.DEVICE and {"vae": torch.device(HOME), "name": HOME} == module.DEVICES


def test_a_module_that_a_call_imports_does_not_keep_the_chosen_device(pack: SelfLoading) -> None:
    pack.on(CHOSEN, "SelfFrames", frames=IMAGE, model="small")
    assert torch.device(HOME) == pack.module("architecture").DEVICE


def test_a_model_of_a_packs_own_type_takes_later_nodes_to_its_device(pack: SelfLoading) -> None:
    (plain,) = pack.run("SelfSegmenterLoader")
    (moved,) = pack.on(CHOSEN, "SelfSegmenterLoader")
    assert moved["model"].weight.device == torch.device(CHOSEN)
    for segmenter, device in ((moved, CHOSEN), (plain, HOME), (moved, CHOSEN)):
        mask, place = pack.run("SelfSegment", segmenter=segmenter, image=IMAGE)
        assert place == device
        assert segmenter is plain or mask.device.type == "cpu"
    assert moved["device"] == torch.device(CHOSEN) and plain["device"] == torch.device("npu")


def test_a_patcher_in_a_module_is_loaded_on_the_chosen_device(pack: SelfLoading) -> None:
    for device in (CHOSEN, HOME, CHOSEN):
        audio, place = pack.on(device, "SelfSpeech", image=IMAGE)
        assert place == device and audio["waveform"].device.type == "cpu"
    assert pack.run("SelfSpeech", image=IMAGE)[1] == HOME
    assert pack.loads == 2
    loaded = importlib.import_module("comfy.model_management").current_loaded_models
    assert {str(each.device) for each in loaded} == {HOME, CHOSEN}, "ComfyUI and the panel know of both"


def test_processes_and_threads_that_a_call_starts_are_on_its_device(
    pack: SelfLoading, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack.module("processes").POOL.submit(int).result()  # its thread is there before
    there = f"{CHOSEN} {CHOSEN}"
    assert pack.on(CHOSEN, "SelfWorker", image=IMAGE)[0] == f"1 | 7 | {there} | {there}"
    home = f"{HOME} {HOME}"
    assert pack.run("SelfWorker", image=IMAGE)[0] == f"all | 7 | {home} | {home}"
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "4,6,5")
    assert pack.on(OTHER, "SelfWorker", image=IMAGE)[0].startswith("5 | 7 |")


def test_the_cpu_can_be_chosen_for_code_that_says_a_familys_name(pack: SelfLoading) -> None:
    text, image = pack.on("cpu", "SelfCaption", image=IMAGE, words="x")
    assert text == "x on cpu, cpu" and torch.equal(image, IMAGE / 2)


def test_code_that_writes_the_first_device_is_named_in_the_error(pack: SelfLoading) -> None:
    with pytest.raises(RuntimeError) as caught:
        pack.on(CHOSEN, "SelfUpscale", image=IMAGE, mixes=False)
    said = str(caught.value)
    assert said.startswith("SelfUpscaleMultiGPU cannot run on npu:1: it put its model on npu:0.")
    assert "Network().to('npu:0') at self_loading/upscaler.py:19" in said and "redirect_first_device" in said
    assert "Network().to('npu')" not in said, "that call follows"


def test_a_mix_of_devices_is_explained_with_torchs_own_words(pack: SelfLoading) -> None:
    with pytest.raises(
        RuntimeError, match=r"same device.*image\.to\('npu:0'\) at self_loading/upscaler\.py:20"
    ) as caught:
        pack.on(CHOSEN, "SelfUpscale", image=IMAGE, mixes=True)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_pack_that_plugins_toml_redirects_runs_where_its_code_says_the_first_device(pack: SelfLoading) -> None:
    creation = importlib.import_module("multigpu.multigpu_core.comfy.any_node.creation")
    pack.any_node = creation.SelfLoadingNodes(pack.comfyui.framework.context, ["self-loading"])
    for mixes in (False, True):
        image, places = pack.on(CHOSEN, "SelfUpscale", image=IMAGE, mixes=mixes)
        assert places == f"{CHOSEN} {CHOSEN}" and torch.equal(image, IMAGE / 2)
    assert pack.run("SelfUpscale", image=IMAGE, mixes=True)[1] == f"{HOME} {HOME}"


def test_the_panel_lists_what_nodes_keep_by_themselves_until_it_is_gone(pack: SelfLoading) -> None:
    pack.on(CHOSEN, "SelfCaption", image=IMAGE, words="x")
    pack.on(CHOSEN, "SelfSpeech", image=IMAGE)
    pack.on(OTHER, "SelfFrames", frames=IMAGE, model="small")
    panel = importlib.import_module("multigpu.multigpu_core.comfy.page.panel_state")
    kept = panel.panel_state(pack.comfyui.framework.context, _Idle(), pack.any_node.kept)["kept_by_nodes"]
    size = pack.module("network").BYTES
    assert kept == [
        {"name": "Network", "node_class": "SelfCaptionMultiGPU", "bytes_by_device": {CHOSEN: size}},
        {"name": "Network", "node_class": "SelfFramesMultiGPU", "bytes_by_device": {OTHER: size}},
    ], "ComfyUI manages the patcher's"
    pack.any_node.release()
    pack.comfyui.held_bytes()  # collects
    assert [each.node_id for each in pack.any_node.kept if each.node_id == "SelfFramesMultiGPU"] == []


class _Idle:
    is_prompt_running = False
    fault = None


def test_models_that_packs_keep_elsewhere_go_when_everything_is_freed(pack: SelfLoading) -> None:
    pack.on(CHOSEN, "SelfFrames", frames=IMAGE, model="small")
    assert pack.comfyui.held_bytes()[1] > 0
    importlib.import_module("execution").PromptExecutor.reset(_Executor())
    assert pack.comfyui.held_bytes()[1] == 0


class _Executor:
    """As much of ComfyUI's executor as its reset needs."""

    cache_type = cache_args = server = None

    def __getattr__(self, name: str) -> Any:
        return None
