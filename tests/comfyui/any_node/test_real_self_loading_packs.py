"""Real packs that load their own models, at work on small made-up weights, where MULTIGPU_PACKS names their folder."""

from __future__ import annotations

import importlib
import json
import sys
from types import ModuleType
from typing import Any

import pytest
import torch

from multigpu.multigpu_core.provisioning.in_process import finished

from ..support.in_process import ComfyUI
from ..support.made_up_packs import in_use
from ..support.packs_at_hand import assert_no_drift, import_pack, real_pack

HOME, CHOSEN = "npu:0", "npu:1"
SELF_LOADING_PACKS = {
    "ComfyUI-QwenVL": "qwenvl",
    "ComfyUI-RMBG": "rmbg",
    "ComfyUI-Frame-Interpolation": "frame_interpolation",
    "ComfyUI-VibeVoice": "vibevoice",
}
"""By the real pack's folder, the stand-in of the example workflow."""


@pytest.mark.parametrize(("pack", "stand_in"), SELF_LOADING_PACKS.items())
def test_the_stand_in_of_an_example_has_the_real_nodes_inputs_and_outputs(
    comfyui: ComfyUI, pack: str, stand_in: str
) -> None:
    assert_no_drift(comfyui, stand_in, pack)


class Nodes:
    """The nodes of a real pack, kept from call to call."""

    def __init__(self, comfyui: ComfyUI, pack: str) -> None:
        self.comfyui = comfyui
        self.folder = real_pack(pack)
        import_pack(comfyui, self.folder)
        self._nodes: dict[str, Any] = {}

    def plain(self, node_id: str, **inputs: Any) -> tuple[Any, ...]:
        node = self.comfyui.nodes.NODE_CLASS_MAPPINGS[node_id]
        held = self._nodes.setdefault(node_id, node())
        self.comfyui.machine.reset_peaks()
        return finished(getattr(held, node.FUNCTION)(**inputs))

    def on(self, device: str, node_id: str, **inputs: Any) -> tuple[Any, ...]:
        choice = self.comfyui.framework.any_node.choice_for(node_id)
        return self.plain(choice.node_id, **{choice.device_input: device}, **inputs)

    def used(self) -> list[bool]:
        """Whether each accelerator was allocated on by the last call, beyond what it holds."""
        return [device.peak_bytes > device.live_bytes for device in self.comfyui.machine.devices]

    def module(self, file: str) -> ModuleType:
        path = str(self.folder / file)
        return next(m for m in list(sys.modules.values()) if getattr(m, "__file__", None) == path)


def test_rife_interpolates_on_each_device_with_a_model_of_its_own(
    comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = Nodes(comfyui, "ComfyUI-Frame-Interpolation")
    rife = nodes.module("vfi_models/rife/__init__.py")
    frames = torch.rand(2, 64, 64, 3)
    inputs = {"ckpt_name": "rife47.pth", "frames": frames, "multiplier": 2, "fast_mode": True, "ensemble": False}
    weights = comfyui.models.parent / "rife47.pth"

    def file(model_type: str, name: str) -> str:
        """Made in the first call, whose import of the architecture asks for a device."""
        architecture = importlib.import_module(f"{rife.__name__}.rife_arch")
        torch.manual_seed(1)
        with torch.inference_mode(False):
            torch.save(architecture.IFNet(arch_ver="4.7").state_dict(), weights)
        return str(weights)

    monkeypatch.setattr(rife, "load_file_from_github_release", file)
    (moved,) = nodes.on(CHOSEN, "RIFE VFI", **inputs)
    assert nodes.used() == [False, True, False]
    architecture = importlib.import_module(f"{rife.__name__}.rife_arch")
    assert architecture.device == torch.device(HOME), "the module that the call imported"
    monkeypatch.setattr(rife, "load_file_from_github_release", lambda *_: str(weights))
    (plain,) = nodes.plain("RIFE VFI", **inputs)
    assert nodes.used() == [True, False, False]
    (again,) = nodes.on(CHOSEN, "RIFE VFI", **inputs)
    assert nodes.used() == [False, True, False]
    assert len(moved) == 3 and torch.equal(moved, plain) and torch.equal(moved, again)
    assert {str(p.device) for model in rife._model_cache.values() for p in model.parameters()} == {HOME}


def test_rmbg_segments_clothes_where_its_variant_says(comfyui: ComfyUI) -> None:
    nodes = Nodes(comfyui, "ComfyUI-RMBG")
    _write_segformer(comfyui)
    images = torch.rand(1, 64, 64, 3)
    inputs = {"images": images, "process_res": 128, "Hat": True, "Dress": True}
    results = []
    for device in (CHOSEN, HOME, CHOSEN):
        image, mask, _ = nodes.on(device, "ClothesSegment", **inputs)
        results.append((image, mask))
        assert image.device.type == mask.device.type == "cpu"
        assert nodes.used() == [device == HOME, device == CHOSEN, False]
    plain_image, plain_mask, _ = nodes.plain("ClothesSegment", **inputs)
    assert nodes.used() == [True, False, False]
    for image, mask in results:
        assert torch.equal(image, plain_image) and torch.equal(mask, plain_mask)


def _write_segformer(comfyui: ComfyUI) -> None:
    transformers = importlib.import_module("transformers")
    folder = comfyui.models / "RMBG" / "segformer_clothes"
    small = {"hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4, "num_attention_heads": [1] * 4}
    config = transformers.SegformerConfig(**small, decoder_hidden_size=16, num_labels=18)
    with torch.inference_mode(False):
        transformers.SegformerForSemanticSegmentation(config).save_pretrained(folder)
    processor = {"image_processor_type": "SegformerImageProcessor", "size": {"height": 64, "width": 64}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))


def test_vibevoice_loads_its_patcher_on_each_device(comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = Nodes(comfyui, "ComfyUI-VibeVoice")
    loader, voice = nodes.module("modules/loader.py"), nodes.module("vibevoice_nodes.py")
    loaded: list[Any] = []

    class Voice(torch.nn.Module):
        """In the place of the pack's model class, which takes gigabytes; what loads and calls it is the pack's."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1, 64), requires_grad=False)

        @property
        def device(self) -> torch.device:
            return self.weight.device

        @classmethod
        def from_pretrained(cls, path: Any, device_map: Any, **_: Any) -> Voice:
            loaded.append(device_map)
            return cls().to(device_map)

        def set_ddpm_inference_steps(self, num_steps: int) -> None:
            self.steps = num_steps

        def generate(self, speech: torch.Tensor, **_: Any) -> Any:
            return type("Output", (), {"speech_outputs": [self.weight * speech]})()

    class Processor:
        tokenizer = None

        def __init__(self, **_: Any) -> None: ...

        def __call__(self, **_: Any) -> dict[str, torch.Tensor]:
            return {"speech": torch.ones(1, 64)}

    folder = comfyui.models / "tts" / "VibeVoice" / "VibeVoice-1.5B"
    folder.mkdir(parents=True)
    for name in ("model.safetensors.index.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    monkeypatch.setattr(loader, "VibeVoiceForConditionalGenerationInference", Voice)
    monkeypatch.setattr(loader, "VibeVoiceProcessor", Processor)
    monkeypatch.setattr(loader, "VibeVoiceTokenizerProcessor", Processor)
    monkeypatch.setattr(loader, "VibeVoiceTextTokenizerFast", Processor)
    settings = {"quantize_llm_4bit": False, "attention_mode": "sdpa", "cfg_scale": 1.3, "inference_steps": 1}
    settings |= {"force_offload": False, "seed": 1, "do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 0}
    heard = {"waveform": torch.rand(1, 1, 2400), "sample_rate": 24000}
    inputs = {"model_name": "VibeVoice-1.5B", "text": "Speaker 1: Hello.", "speaker_1_voice": heard, **settings}
    for device in (CHOSEN, HOME, CHOSEN):
        (audio,) = nodes.on(device, "VibeVoiceTTS", **inputs)
        assert audio["waveform"].device.type == "cpu"
    nodes.plain("VibeVoiceTTS", **inputs)
    assert list(map(str, loaded)) == [CHOSEN, HOME], "one model for each device, each loaded once"
    (cached,) = voice.VIBEVOICE_PATCHER_CACHE.values()
    assert in_use(cached.model) == {HOME}
