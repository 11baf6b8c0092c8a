"""Imported by the first call: what it asks at import is asked inside that call."""

import comfy.model_management as mm

from .network import Network

DEVICE = mm.get_torch_device()
build = Network
