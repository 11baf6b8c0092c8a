"""ComfyUI's CLIP on another machine: prompts go there, conditioning comes back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .methods import TEXT_ENCODER_METHODS
from .remote_model import RemoteModel, UnsupportedRemotelyError

EMBEDDING = "embedding:"


class RemoteTextEncoder:
    """What nodes use of a CLIP. Clones share the model and have settings of their own, as ComfyUI's do."""

    def __init__(
        self, model: RemoteModel, layer_idx: int | None = None, tokenizer_options: dict[str, Any] | None = None
    ) -> None:
        self._model = model
        self.layer_idx = layer_idx
        self.tokenizer_options = tokenizer_options or {}

    def clone(self, *ignored: Any, **also_ignored: Any) -> RemoteTextEncoder:
        return RemoteTextEncoder(self._model, self.layer_idx, dict(self.tokenizer_options))

    def clip_layer(self, layer_idx: int) -> None:
        self.layer_idx = layer_idx

    def set_tokenizer_option(self, option_name: str, value: Any) -> None:
        self.tokenizer_options[option_name] = value

    def is_dynamic(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__") or name == "_model":
            raise AttributeError(name)
        if name not in TEXT_ENCODER_METHODS:
            raise UnsupportedRemotelyError("text encoder", self._model.place, f"{name!r}")

        def method(*arguments: Any, **named: Any) -> Any:
            return self._call(name, arguments, named)

        return method

    def _call(self, name: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        texts = (*arguments, *named.values()) if name in ("tokenize", "encode") else ()
        if any(isinstance(text, str) and EMBEDDING in text for text in texts):
            raise UnsupportedRemotelyError("text encoder", self._model.place, "an embedding in a prompt")

        def here(clip: Any) -> Any:
            clone = clip.clone()
            clone.layer_idx = self.layer_idx
            clone.tokenizer_options = dict(self.tokenizer_options)
            return getattr(clone, name)(*arguments, **named)

        options = {"layer": self.layer_idx, "tokenizer_options": self.tokenizer_options}
        return self._model.run(self._model.call(name, arguments, named, **options), here)
