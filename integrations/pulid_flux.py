"""ComfyUI-PuLID-Flux: its nodes on the device of the model that they change.

Nothing of the pack is loaded for a device of its own: Apply moves what it hangs on the diffusion model.
"""

from __future__ import annotations

from collections.abc import Iterable

from multigpu import hookimpl
from multigpu.api import PackDevices, WrappedLoader

multigpu_pack = "ComfyUI-PuLID-Flux"

PACK = PackDevices(model_types=("MODEL",))


@hookimpl
def multigpu_wrap_loader() -> Iterable[WrappedLoader]:
    yield WrappedLoader("PulidFluxModelLoader", (), PACK)
