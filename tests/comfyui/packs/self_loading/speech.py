"""Gives its model to a patcher of ComfyUI's, kept in a module's dict of dicts, and makes sound: VibeVoice."""

import comfy.model_management as mm
from comfy.model_patcher import ModelPatcher

from .network import Network

LOADED = {}


class Speak:
    RETURN_TYPES = ("AUDIO", "STRING")
    FUNCTION = "speak"
    CATEGORY = "self loading"
    INPUT_TYPES = classmethod(lambda cls: {"required": {"image": ("IMAGE",)}})

    def speak(self, image):
        if "large" not in LOADED:
            network = Network()
            patcher = ModelPatcher(network, mm.get_torch_device(), mm.unet_offload_device())
            LOADED["large"] = {"patcher": patcher, "processor": object()}
        patcher = LOADED["large"]["patcher"]
        mm.load_models_gpu([patcher])
        device = patcher.model.weight.device
        waveform = patcher.model(image.to(device))
        return {"waveform": waveform, "sample_rate": 24000}, str(device)
