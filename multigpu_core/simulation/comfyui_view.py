"""Letting an unpatched ComfyUI see simulated devices as its accelerators.

ComfyUI supports Ascend NPUs, which reach PyTorch through the same door as simulated devices do: it looks for a module
`torch_npu` and asks `torch.npu`. So it takes its real accelerator paths, with its own memory management.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys

import torch

from multigpu.multigpu_core.simulation.errors import SimulationUnavailableError
from multigpu.multigpu_core.simulation.machine import SimulatedMachine

COMFYUI_BACKEND = "npu"
COMFYUI_PROBE = "torch_npu"
KERNELS_OF_TRANSFORMERS = ("npu_fusion_attention", "npu_rotary_mul")
"""What transformers imports from the module where there is one; it is called on request only."""


def appear_to_comfyui(machine: SimulatedMachine) -> None:
    """Make a ComfyUI that is imported from now on compute on the devices of `machine`.

    The rest of the process loses sight of real CUDA and ROCm cards: ComfyUI believes in one kind of card at a time.
    Raises `SimulationUnavailableError` for a machine whose backend ComfyUI does not know.
    """
    if machine.backend != COMFYUI_BACKEND:
        raise SimulationUnavailableError(f"ComfyUI knows the backend {COMFYUI_BACKEND!r}, not {machine.backend!r}")
    if "comfy.model_management" in sys.modules:
        raise SimulationUnavailableError("ComfyUI has chosen its devices already; simulate before it is imported")
    if COMFYUI_PROBE not in sys.modules:
        spec = importlib.machinery.ModuleSpec(COMFYUI_PROBE, loader=None)
        probe = sys.modules[COMFYUI_PROBE] = importlib.util.module_from_spec(spec)
        vars(probe).update(dict.fromkeys(KERNELS_OF_TRANSFORMERS))
    # A CUDA or ROCm build of torch is taken for a CUDA or ROCm card, whether there is one or not.
    torch.version.cuda = None
    torch.version.hip = None
