"""Runs the two halves of a batch that ComfyUI gives a relayed model at once, in ping-pong.

ComfyUI batches cond and uncond when memory allows, and runs one after the other when not; split at that seam, a step is
what ComfyUI makes of it with little memory, bit for bit. A batch of images alone is split where nothing looks at it as
a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import comfy.patcher_extension
import torch
from torch import Tensor

from multigpu.multigpu_core.execution import replace_tensors

if TYPE_CHECKING:
    from .placement import ModelPlacement

WRAPPER_KEY = "multigpu"
_OF_EACH_CHUNK = ("cond_or_uncond", "uuids")
_LOOKS_AT_THE_BATCH = ("patches", "patches_replace")
_FRAMES_IN_BATCH = ("num_video_frames", "image_only_indicator")


@dataclass(frozen=True)
class ModelCall:
    """The arguments of one call of ComfyUI's `apply_model`: the first dimension of what is batched is that of `x`."""

    args: tuple[Any, ...]
    """x, timestep, what is concatenated to x, context, ControlNet residuals."""
    kwargs: Mapping[str, Any]
    transformer_options: Mapping[str, Any]

    @property
    def batch_size(self) -> int:
        return int(self.args[0].shape[0])

    @property
    def has_halves(self) -> bool:
        """Whether both halves of the batch can be computed without the other."""
        chunks = len(self.transformer_options.get("cond_or_uncond", ()))
        if self.batch_size % 2:
            return False
        if chunks == 1:
            return not any(self.transformer_options.get(name) for name in _LOOKS_AT_THE_BATCH) and not any(
                name in self.kwargs for name in _FRAMES_IN_BATCH
            )
        return chunks > 0 and chunks % 2 == 0

    def half(self, index: int) -> ModelCall:
        """The first half (0) or the second (1)."""
        size = self.batch_size // 2

        def narrowed(tensor: Tensor) -> Tensor:
            is_batched = tensor.dim() > 0 and tensor.shape[0] == 2 * size
            return tensor.narrow(0, index * size, size) if is_batched else tensor

        options = dict(self.transformer_options)
        chunks = len(options["cond_or_uncond"])
        for name in _OF_EACH_CHUNK:
            if chunks > 1 and name in options:
                options[name] = options[name][index * chunks // 2 : (index + 1) * chunks // 2]
        if isinstance(options.get("sigmas"), Tensor):
            options["sigmas"] = narrowed(options["sigmas"])
        return ModelCall(replace_tensors(self.args, narrowed), replace_tensors(dict(self.kwargs), narrowed), options)

    def run(self, model: Callable[..., Tensor]) -> Tensor:
        return model(*self.args, self.transformer_options, **self.kwargs)


def run_halves_at_once(patcher: Any, placement: ModelPlacement) -> None:
    """Have the patcher, and all its clones, run halves in ping-pong where their plan lets two cards compute."""

    def apply_model(executor: Any, *args: Any, **kwargs: Any) -> Tensor:
        *tensors, transformer_options = args
        call = ModelCall(tuple(tensors), kwargs, transformer_options)
        ping_pong = placement.distribution.ping_pong
        is_ours = executor.class_obj is placement.distribution.module  # and not a copy of it for another device
        if ping_pong is None or not is_ours or not call.has_halves:
            return call.run(executor)
        halves = [partial(call.half(index).run, executor) for index in (0, 1)]
        return torch.cat(ping_pong.run(halves, kind=tuple(args[0].shape)))

    wrapper = comfy.patcher_extension.WrappersMP.APPLY_MODEL
    patcher.add_wrapper_with_key(wrapper, WRAPPER_KEY, apply_model)
