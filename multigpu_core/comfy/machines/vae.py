"""ComfyUI's VAE on another machine: latents go there, images come back, and the other way round."""

from __future__ import annotations

from typing import Any

from .methods import VAE_ATTRIBUTES, VAE_METHODS
from .remote_model import RemoteModel, UnsupportedRemotelyError


class RemoteVAE:
    """What nodes use of a VAE."""

    def __init__(self, model: RemoteModel) -> None:
        self._model = model

    def is_dynamic(self) -> bool:
        return False

    def throw_exception_if_invalid(self) -> None:
        """Nothing: its loading over there has checked it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_model":
            raise AttributeError(name)
        told = self._model.told or {}
        if name in told:
            return told[name]
        if name in VAE_ATTRIBUTES and self._model.at_home is not None:
            return getattr(self._model.at_home, name)
        if name not in VAE_METHODS:
            raise UnsupportedRemotelyError("VAE", self._model.place, f"{name!r}")

        def method(*arguments: Any, **named: Any) -> Any:
            there = self._model.call(name, arguments, named)
            return self._model.run(there, lambda vae: getattr(vae, name)(*arguments, **named))

        return method
