"""The MultiGPU variants of loaders whose models may be on another machine, and their choice of device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from multigpu.multigpu_core.allocation.language.device_names import Resolver
from multigpu.multigpu_core.cluster.files.identity import Identities
from multigpu.multigpu_core.comfy.host.loader_outputs import map_outputs
from multigpu.multigpu_core.comfy.nodes.inputs import InputSpec
from multigpu.multigpu_core.comfy.nodes.model_files import UnknownFileError, model_file
from multigpu.multigpu_core.comfy.nodes.variants import VariantNode
from multigpu.multigpu_core.contract.loaders import NodeVariant

from .machines import Machines, Place
from .remote_model import RemoteModel, RemoteSource
from .text_encoder import RemoteTextEncoder
from .vae import RemoteVAE

DEVICE = "device"


@dataclass(frozen=True)
class RemoteLoader:
    """How a loader's inputs say what it loads. `kind_input` names the kind of a text encoder, `kind` stands for it."""

    file_inputs: tuple[str, ...]
    is_vae: bool = False
    kind_input: str = ""
    kind: str = "stable_diffusion"


REMOTE_LOADERS = {
    "CLIPLoaderMultiGPU": RemoteLoader(("clip_name",), kind_input="type"),
    "DualCLIPLoaderMultiGPU": RemoteLoader(("clip_name1", "clip_name2"), kind_input="type"),
    "TripleCLIPLoaderMultiGPU": RemoteLoader(("clip_name1", "clip_name2", "clip_name3")),
    "QuadrupleCLIPLoaderMultiGPU": RemoteLoader(("clip_name1", "clip_name2", "clip_name3", "clip_name4")),
    "VAELoaderMultiGPU": RemoteLoader(("vae_name",), is_vae=True),
}
"""The variants that may be on another machine, by their node ids."""
NO_FILE = (
    "{name} is not one file of ComfyUI's VAE folder, so it cannot be loaded on {place}. Choose a device of this "
    "machine; such a VAE is small."
)
MADE_OF_PARTS = ("pixel_space", "taesd", "taesdxl", "taesd3", "taef1", "taef2")
"""What VAELoader offers beside files: it makes these itself."""


def node_bases(machines: Machines) -> Callable[[NodeVariant], type[VariantNode]]:
    """The base class of each variant."""
    remote = type("RemoteVariantNode", (_RemoteVariantNode,), {"MACHINES": machines, "IDENTITIES": Identities()})
    return lambda variant: remote if variant.node_id in REMOTE_LOADERS else VariantNode


class _RemoteVariantNode(VariantNode):
    """A variant that offers the devices of other machines after those of this one."""

    MACHINES: Machines
    IDENTITIES: Identities

    @classmethod
    def _ours(cls) -> list[InputSpec]:
        return [cls._with_machines(each) if each.is_device else each for each in super()._ours()]

    @classmethod
    def known_devices(cls) -> Resolver:
        here = super().known_devices()

        def resolve(text: str) -> str:
            place = cls.MACHINES.place(text)
            return str(place) if place is not None else here(text)

        return resolve

    def load(self, **inputs: Any) -> Any:
        place = self.MACHINES.place(str(inputs.get(DEVICE) or ""))
        return super().load(**inputs) if place is None else self._load_there(place, inputs)

    @classmethod
    def _with_machines(cls, added: InputSpec) -> InputSpec:
        (names, options), places = added.spec, cls.MACHINES.places()
        return replace(added, spec=([*names, *map(str, places)], options)) if places else added

    def _load_there(self, place: Place, inputs: Mapping[str, Any]) -> tuple[Any, ...]:
        loader = REMOTE_LOADERS[self.VARIANT.node_id]
        files = tuple(self._file(str(inputs[name]), name, place) for name in loader.file_inputs)

        def at_home() -> Any:
            job = self._job({**inputs, DEVICE: self.CONTEXT.host.default_device()})
            with job.scope():
                return _first_output(job.finish(job.call()))

        kind = {} if loader.is_vae else {"kind": str(inputs.get(loader.kind_input) or loader.kind)}
        source = RemoteSource(
            "VAE" if loader.is_vae else "text encoder",
            "vae" if loader.is_vae else "text_encoder",
            files,
            at_home,
            kind,
        )
        model = RemoteModel(self.MACHINES, place, source, self.IDENTITIES)
        model.load()
        return (RemoteVAE(model) if loader.is_vae else RemoteTextEncoder(model),)

    def _file(self, name: str, input_name: str, place: Place) -> Path:
        if name in MADE_OF_PARTS:
            raise UnknownFileError(NO_FILE.format(name=name, place=place))
        return model_file(name, input_name)


def _first_output(result: Any) -> Any:
    outputs: list[Any] = []

    def note(index: int, value: Any) -> Any:
        outputs.append(value)
        return value

    map_outputs(result, note)
    return outputs[0]
