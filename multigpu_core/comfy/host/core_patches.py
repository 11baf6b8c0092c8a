"""The few ComfyUI functions that we replace, each with its undo.

Every replacement asks first whether one of our nodes is at work (`current_scope()`) or has loaded a model
(`TrackedModels`), and otherwise is ComfyUI's own function: workflows without our nodes run exactly as before.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from .comfyui_names import MissingNameError
from .compatibility import REPLACED, flag
from .compatibility import model_management as mm
from .dynamic_vram import SwitchedModules
from .scope import Devices, current_scope, device_scope

ScopeAnswer = Callable[[Devices], "torch.device | None"]


def _home_of(device: torch.device) -> torch.device | None:
    """With --gpu-only a model waits where it computes, and not where its checkpoint's diffusion model does."""
    return device if flag("gpu_only") else None


# Function of comfy.model_management -> what a device scope answers for it; None leaves the answer to ComfyUI.
DEVICE_SELECTION: dict[str, ScopeAnswer] = {
    "get_torch_device": lambda scope: scope.compute,
    "text_encoder_device": lambda scope: scope.of_text_encoder,
    "vae_device": lambda scope: scope.of_vae,
    "unet_offload_device": lambda scope: scope.offload,
    "text_encoder_offload_device": lambda scope: scope.offload or _home_of(scope.of_text_encoder),
    "vae_offload_device": lambda scope: scope.offload or _home_of(scope.of_vae),
    "unet_inital_load_device": lambda scope: scope.initial,  # ComfyUI's spelling
    "text_encoder_initial_device": lambda scope: scope.initial,
}


class CorePatches:
    """Installs and restores our replacements in `comfy.model_management`, and in ComfyUI's executor and queue."""

    def __init__(
        self,
        unload_all_models: Callable[[Callable[[], None]], None],
        empty_cache: Callable[[], None],
        let_go: Callable[[], None] = lambda: None,
        home_of_results: Callable[[torch.device], torch.device] = lambda device: device,
        between_prompts: Callable[[Any], None] = lambda queue: None,
        may_record: Callable[[torch.device], bool] = lambda device: True,
    ) -> None:
        """`unload_all_models` is called with ComfyUI's own function; `empty_cache` after ComfyUI emptied its cache.

        `let_go` is called when ComfyUI's executor lets all cached outputs go. `home_of_results` says where results go
        that ComfyUI would leave on a device. `between_prompts` is called with the queue by the thread that executes
        prompts, before it waits for the next one. `may_record` says whether Comfy Compiler may record on a device.
        """
        self._home_of_results = home_of_results
        self._let_go = let_go
        self._between_prompts = between_prompts
        self._may_record = may_record
        self._unload_all_models = unload_all_models
        self._empty_cache = empty_cache
        self._switched = SwitchedModules()
        self._originals: dict[tuple[Any, str], Callable[..., Any]] = {}

    def install(self) -> None:
        """Replace what can be replaced; what this ComfyUI lacks or has changed is left alone: start-up has said so."""
        self._switched.install()
        for name, answer in DEVICE_SELECTION.items():
            self._replace(name, partial(_answered_by_scope, answer))
        self._replace("intermediate_device", self._bringing_results_home)
        self._replace("free_memory", _keeping_patchers_alive)
        self._replace("soft_empty_cache", self._emptying_all_caches)
        self._replace("unload_all_models", self._sparing_kept_models)
        self._replace("PromptExecutor.reset", self._letting_go)
        self._replace("PromptQueue.get", self._between_two_prompts)
        self._replace("malloc_graph_enabled", self._recording_none_of_ours)

    def restore(self) -> None:
        """Put ComfyUI's own functions back."""
        self._switched.restore()
        for (owner, name), original in self._originals.items():
            setattr(owner, name, original)
        self._originals.clear()

    def _replace(self, declared: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        try:
            owner, name = REPLACED[declared].place
        except MissingNameError:
            return
        if REPLACED[declared].fault:
            return
        original = self._originals[owner, name] = getattr(owner, name)
        replacement = make(original)
        replacement.__name__ = name
        replacement.__wrapped__ = original  # type: ignore[attr-defined]  # inspect shows ComfyUI's signature
        setattr(owner, name, replacement)

    def _bringing_results_home(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Results are handed on where ComfyUI wants them, wherever they were made.

        With --gpu-only ComfyUI names the current device, and that is another one while a model of ours computes there.
        """

        def intermediate_device(*args: Any, **kwargs: Any) -> Any:
            with device_scope(None):
                device = original(*args, **kwargs)
            return device if device.type == "cpu" else self._home_of_results(device)

        return intermediate_device

    def _letting_go(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def reset(*args: Any, **kwargs: Any) -> Any:
            self._let_go()
            return original(*args, **kwargs)

        return reset

    def _between_two_prompts(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def get(queue: Any, *args: Any, **kwargs: Any) -> Any:
            self._between_prompts(queue)
            return original(queue, *args, **kwargs)

        return get

    def _recording_none_of_ours(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Comfy Compiler records no model that we split or moved to another device.

        It records every allocation of a forward, and expects the same ones each time, on one device. A split model
        allocates on several and at other moments, which ends the process in native code. ComfyUI asks this function
        before it records; a CUDA graph is only ever captured inside a recording.
        """

        def malloc_graph_enabled(device: torch.device, *args: Any, **kwargs: Any) -> bool:
            return self._may_record(device) and bool(original(device, *args, **kwargs))

        return malloc_graph_enabled

    def _emptying_all_caches(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def soft_empty_cache(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            self._empty_cache()
            return result

        return soft_empty_cache

    def _sparing_kept_models(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def unload_all_models(*args: Any, **kwargs: Any) -> Any:
            return self._unload_all_models(lambda: original(*args, **kwargs))

        return unload_all_models


def _answered_by_scope(answer: ScopeAnswer, original: Callable[..., Any]) -> Callable[..., Any]:
    def select_device(*args: Any, **kwargs: Any) -> Any:
        scope = current_scope()
        chosen = answer(scope) if scope is not None else None
        return original(*args, **kwargs) if chosen is None else chosen

    return select_device


def _keeping_patchers_alive(original: Callable[..., Any]) -> Callable[..., Any]:
    """Keep the patchers of loaded models alive while ComfyUI unloads some of them.

    ComfyUI refers to them weakly, and reads the name of a model right after unloading it. Where the last reference was
    in garbage, such as the traceback of an interrupted prompt, a collection during the unload ends the patcher. ComfyUI
    then fails in the middle, and its list of loaded models stops the prompt worker at the next prompt.
    """

    def free_memory(*args: Any, **kwargs: Any) -> Any:
        patchers = [loaded.model for loaded in mm.current_loaded_models]
        try:
            return original(*args, **kwargs)
        finally:
            patchers.clear()

    return free_memory
