"""The jobs that the command line runs inside a ComfyUI that it imports for them."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from multigpu.multigpu_core.allocation.language.errors import AllocationError, PlanError
from multigpu.multigpu_core.comfy.host.comfyui_names import WAY_OUT
from multigpu.multigpu_core.comfy.host.compatibility import Feature, cli_args, folder_paths
from multigpu.multigpu_core.comfy.startup import Framework

from .made_up_inputs import UnknownInputsError
from .trial_runs import SplitTrial, TrialError, compared

LoaderOfFile = tuple[str, str, dict[str, str]]
"""Node id, ComfyUI's name for the kind of folder, and further inputs."""
CORE_LOADER: LoaderOfFile = ("UNETLoader", "diffusion_models", {"weight_dtype": "default"})
LOADERS: dict[str, LoaderOfFile] = {".gguf": ("UnetLoaderGGUF", "unet_gguf", {})}

Job = Callable[[Framework, Mapping[str, Any]], dict[str, Any]]


def verify(framework: Framework, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Compare a file's model whole and split. ``error`` says why there is no verdict."""
    if (reason := framework.context.missing.get(Feature.VERIFY)) is not None:
        return {"error": f"This ComfyUI has changed: {reason}. {WAY_OUT}"}
    file = Path(arguments["file"])
    loader, kind, more = LOADERS.get(file.suffix.lower(), CORE_LOADER)
    folder_paths.add_model_folder_path(kind, str(file.parent), is_default=True)
    trial = SplitTrial(loader, {"unet_name": file.name, **more}, **arguments["trial"])
    try:
        with torch.inference_mode():
            return asdict(compared(trial, framework.context.host.registry))
    except (TrialError, UnknownInputsError, AllocationError, PlanError) as error:
        return {"error": str(error)}


def readiness(framework: Framework, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Versions, and the features that are off in this ComfyUI."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "comfy_aimdo": _version_of("comfy-aimdo"),
        "knows_dynamic_vram": hasattr(cli_args, "enables_dynamic_vram"),
        "nodes": len(framework.NODE_CLASS_MAPPINGS),
        "missing": {feature.value: faults for feature, faults in framework.context.missing.items()},
    }


def _version_of(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


JOBS: dict[str, Job] = {"verify": verify, "readiness": readiness}
