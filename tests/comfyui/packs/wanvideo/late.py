"""Imported when a node first needs it, as several parts of the pack are."""

import comfy.model_management as mm

device = mm.get_torch_device()
offload_device = mm.unet_offload_device()
