"""x-flux-comfyui: its ControlNet loader with a device, and its nodes on the device of the Flux model.

Weights are not split: the pack moves the whole Flux model, so a split one is refused by its nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from multigpu import hookimpl
from multigpu.api import DevicePart, NodeVariant, PackDevices, WrappedLoader

if TYPE_CHECKING:
    import torch

multigpu_pack = "x-flux-comfyui"


class MovesWholeModelError(RuntimeError):
    """A node of the pack would move all weights of a split model to one device. `device` is that one."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        super().__init__(
            f"The nodes of x-flux-comfyui move the whole Flux model to {device}, which would undo its split. Load the "
            "model with UNETLoaderMultiGPU, or use ComfyUI's own LoRA, ControlNet and sampler nodes."
        )


@contextmanager
def refusing_split_models(inputs: Mapping[str, Any], compute: torch.device) -> Iterator[None]:
    if hasattr(inputs.get("model"), "multigpu_placement"):
        raise MovesWholeModelError(compute)
    yield


# The model decides: its ControlNets and adapters compute with it.
PACK = PackDevices(model_types=("MODEL", "FluxControlNet"), around=refusing_split_models)
CONTROL_NET = NodeVariant(
    "LoadFluxControlNetMultiGPU",
    "MultiGPU",
    (DevicePart((0,)),),
    description="The ControlNet on the device that you choose. The sampler moves it to the device of the Flux model.",
)


@hookimpl
def multigpu_wrap_loader() -> Iterable[WrappedLoader]:
    yield WrappedLoader("LoadFluxControlNet", (CONTROL_NET,), PACK)
