"""The worker's side: text encoders and VAEs, loaded by home's ComfyUI code on one device, and called by name.

A model is known by a key that home makes of its files, so that the same one is never loaded twice.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from multigpu.multigpu_core.cluster.files.identity import FileIdentity
from multigpu.multigpu_core.cluster.files.store import ModelStore
from multigpu.multigpu_core.comfy.host.compatibility import comfy_sd, comfy_utils
from multigpu.multigpu_core.comfy.host.compatibility import model_management as mm

from .flags import use_flags
from .methods import TEXT_ENCODER_METHODS, VAE_ATTRIBUTES, VAE_METHODS

Values = dict[str, Any]
CPU = torch.device("cpu")


class WorkerModels:
    """The models of one worker."""

    def __init__(self, device: torch.device, store: ModelStore) -> None:
        self._device = device
        self._store = store
        self._models: dict[str, Any] = {}
        self._files: dict[str, str] = {}

    def operations(self) -> dict[str, Callable[..., Any]]:
        return {
            "use_flags": use_flags,
            "text_encoder.load": self.load_text_encoder,
            "text_encoder.call": self.call_text_encoder,
            "vae.load": self.load_vae,
            "vae.call": self.call_vae,
        }

    def holds(self) -> tuple[str, ...]:
        """The files of the models that are loaded."""
        return tuple(self._files.values())

    def load_text_encoder(self, key: str, used: Sequence[str], files: Sequence[Values], kind: str) -> None:
        """Load one from its files, of the kind that ComfyUI calls `kind`, unless it is here.

        Models whose keys are not among the `used` ones are forgotten first.
        """
        self._forget_all_but(used)
        if key in self._models:
            return
        options = {"load_device": self._device, "offload_device": CPU}
        kinds = {each.name: each for each in comfy_sd.CLIPType}
        clip_type = kinds.get(kind.upper(), kinds["STABLE_DIFFUSION"])  # as ComfyUI's own loaders do
        paths = [str(self._path(each)) for each in files]
        self._keep(key, files, comfy_sd.load_clip(ckpt_paths=paths, clip_type=clip_type, model_options=options))

    def call_text_encoder(self, key: str, method: str, layer: int | None, tokenizer_options: Values, **how: Any) -> Any:
        """Call one of a text encoder's methods as of a clone with these settings."""
        clip = self._models[key].clone()
        clip.layer_idx = layer
        clip.tokenizer_options = tokenizer_options
        return _called(clip, method, TEXT_ENCODER_METHODS, **how)

    def load_vae(self, key: str, used: Sequence[str], files: Sequence[Values]) -> Values:
        """Load one, in the same way, and tell its attributes that nodes read."""
        self._forget_all_but(used)
        if key not in self._models:
            weights, metadata = comfy_utils.load_torch_file(str(self._path(files[0])), return_metadata=True)
            vae = comfy_sd.VAE(sd=weights, metadata=metadata, device=self._device)
            vae.throw_exception_if_invalid()
            self._keep(key, files, vae)
        vae = self._models[key]
        found = {name: getattr(vae, name, None) for name in VAE_ATTRIBUTES}
        return {name: value for name, value in found.items() if value is None or isinstance(value, int | float)}

    def call_vae(self, key: str, method: str, **how: Any) -> Any:
        return _called(self._models[key], method, VAE_METHODS, **how)

    def _forget_all_but(self, used: Sequence[str]) -> None:
        unused = self._models.keys() - {*used}
        for key in unused:
            del self._models[key], self._files[key]
        if unused:
            gc.collect()
            mm.cleanup_models_gc()
            mm.soft_empty_cache()

    def _keep(self, key: str, files: Sequence[Values], model: Any) -> None:
        self._models[key] = model
        self._files[key] = " + ".join(str(each["name"]) for each in files)

    def _path(self, wanted: Values) -> Path:
        identity = FileIdentity(**wanted)
        path = self._store.find(identity)
        if path is None:
            raise FileNotFoundError(f"{identity.name} is not here")
        return path


def _called(model: Any, method: str, methods: frozenset[str], *, arguments: Sequence[Any], named: Values) -> Any:
    if method not in methods:
        raise ValueError(f"{method!r} is not among {', '.join(sorted(methods))}")
    return getattr(model, method)(*arguments, **named)
