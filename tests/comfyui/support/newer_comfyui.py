"""What newer versions of ComfyUI, read up to about 0.45, call and expect otherwise than those that the tests run in.

Each is a stand-in for one thing: its signature, its attributes and the order of its calls, and nothing of its work.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch


def patcher_with_fast_disk() -> type:
    """ComfyUI's patcher as it is from 0.34 on: it also takes `fast_disk`, and a clone is made with it."""
    patcher_class: Any = importlib.import_module("comfy.model_patcher").ModelPatcher

    class ModelPatcher(patcher_class):  # type: ignore[misc]
        def __init__(
            self,
            model: Any,
            load_device: Any,
            offload_device: Any,
            size: int = 0,
            weight_inplace_update: bool = False,
            fast_disk: bool = False,
        ) -> None:
            super().__init__(model, load_device, offload_device, size, weight_inplace_update)
            self.fast_disk = fast_disk

        def clone(self, *args: Any, **kwargs: Any) -> Any:
            cloned = super().clone(*args, **kwargs)
            made = type(cloned)(
                cloned.model,
                self.load_device,
                self.offload_device,
                self.model_size(),
                weight_inplace_update=self.weight_inplace_update,
                fast_disk=self.fast_disk,
            )
            vars(cloned).update(fast_disk=made.fast_disk)
            return cloned

    return ModelPatcher


class Compiler:
    """Comfy Compiler: a recording for each thread, comfy-kitchen's context, and CUDA graphs inside of recordings."""

    def __init__(self) -> None:
        self.recording: set[int] = set()
        """The threads in which a recording is under way."""
        self.recorded: list[torch.device] = []
        self.captured: list[torch.nn.Module] = []
        self.paused: list[bool] = []
        """For each allocation of comfy-kitchen whether it interrupted a recording."""
        self._context: Compiler | None = None

    def __enter__(self) -> None:
        """comfy-kitchen enters the context that the last recording left, in whatever thread it allocates."""
        self.paused.append(threading.get_ident() in self.recording)

    def __exit__(self, *_: object) -> None: ...

    def forward(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """A model's forward: it asks for its device, and records from its first operator to its last."""

        def recorded_forward(model: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
            thread = threading.get_ident()
            enabled = importlib.import_module("comfy.model_prefetch").malloc_graph_enabled(x.device)
            if enabled:
                self.recorded.append(x.device)
                self.recording.add(thread)
                self._context = self
            if self._context is not None:
                with self._context:
                    pass
            try:
                return original(model, x, *args, **kwargs)
            finally:
                self.recording.discard(thread)

        return recorded_forward

    def block(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """A block's forward: it is captured inside of a recording, if DynamicVRAM has given it a range of addresses."""

        def captured_forward(block: Any, *args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() in self.recording and getattr(block, "_v_block", None) is not None:
                self.captured.append(block)
            return original(block, *args, **kwargs)

        return captured_forward


def with_compiler(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    """Give this ComfyUI a compiler that is on, on every device; DynamicVRAM marks the blocks that it loads."""
    from comfy.cli_args import args
    from comfy.ldm.flux import layers
    from comfy.ldm.flux.model import Flux

    compiler = Compiler()
    prefetch, patchers = (importlib.import_module(f"comfy.{name}") for name in ("model_prefetch", "model_patcher"))
    monkeypatch.setattr(args, "disable_comfy_compiler", False, raising=False)
    monkeypatch.setattr(prefetch, "malloc_graph_enabled", lambda device: not args.disable_comfy_compiler, raising=False)
    monkeypatch.setattr(Flux, "forward", compiler.forward(Flux.forward))
    monkeypatch.setattr(layers.SingleStreamBlock, "forward", compiler.block(layers.SingleStreamBlock.forward))
    monkeypatch.setattr(patchers.ModelPatcherDynamic, "load", _marking_blocks(patchers.ModelPatcherDynamic.load))
    return compiler


def _marking_blocks(load: Callable[..., Any]) -> Callable[..., Any]:
    def load_and_mark(patcher: Any, *args: Any, **kwargs: Any) -> Any:
        loaded = load(patcher, *args, **kwargs)
        for block in patcher.model.diffusion_model.single_blocks:
            block._v_block = (patcher, 0, 1)
        return loaded

    return load_and_mark
