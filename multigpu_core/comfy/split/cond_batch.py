"""Run the two halves of a batch that ComfyUI gives a relayed model at once, in micro-batches.

ComfyUI batches cond and uncond when memory allows, and runs one after the other when not; split at that seam, a step is
what ComfyUI makes of it with little memory, bit for bit. A batch of images alone is split where nothing looks at it as
a whole.

The forwards of the halves alternate on two threads. Patches and wrappers of other extensions may keep something from
one of their calls to the next, so with any of them the halves run one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from multigpu.multigpu_core.comfy.host.compatibility import patcher_extension
from multigpu.multigpu_core.execution import replace_tensors

if TYPE_CHECKING:
    from .placement import ModelPlacement

WRAPPER_KEY = "multigpu"
_OF_EACH_CHUNK = ("cond_or_uncond", "uuids")
_PATCHES = ("patches", "patches_replace")
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
    def parts(self) -> int:
        """How many parts of the batch can be computed without the others: prompts, or the images of one prompt."""
        chunks = len(self.transformer_options.get("cond_or_uncond", ()))
        if chunks != 1:
            return chunks if chunks and self.batch_size % chunks == 0 else 1
        return 1 if any(name in self.kwargs for name in _FRAMES_IN_BATCH) else self.batch_size

    @property
    def has_micro_batches(self) -> bool:
        """Whether both halves of the batch can be computed without the other."""
        chunks = len(self.transformer_options.get("cond_or_uncond", ()))
        if self.batch_size % 2:
            return False
        if chunks == 1:
            return not self._has_patches and not any(name in self.kwargs for name in _FRAMES_IN_BATCH)
        return chunks > 0 and chunks % 2 == 0

    @property
    def calls_other_extensions(self) -> bool:
        """Whether the forward calls functions of other extensions, which may hold state between two calls."""
        kinds = patcher_extension.WrappersMP
        return calls_other_extensions(self.transformer_options, (kinds.APPLY_MODEL, kinds.DIFFUSION_MODEL))

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of all tensors that are passed."""
        shapes: list[tuple[int, ...]] = []

        def note(tensor: Tensor) -> Tensor:
            shapes.append(tuple(tensor.shape))
            return tensor

        replace_tensors([self.args, dict(self.kwargs)], note)
        return tuple(shapes)

    @property
    def _has_patches(self) -> bool:
        return any(self.transformer_options.get(name) for name in _PATCHES)

    def half(self, index: int) -> ModelCall:
        """The first half (0) or the second (1)."""
        size = self.batch_size // 2
        return self._narrowed(index * size, size)

    def part(self, begin: int, end: int) -> ModelCall:
        """Some of the `parts`, which are consecutive."""
        size = self.batch_size // self.parts
        return self._narrowed(begin * size, (end - begin) * size)

    def _narrowed(self, begin: int, size: int) -> ModelCall:
        """A part of the batch. Models may change its dicts and lists, which are its own."""
        whole = self.batch_size

        def narrowed(tensor: Tensor) -> Tensor:
            is_batched = tensor.dim() > 0 and tensor.shape[0] == whole
            return tensor.narrow(0, begin, size) if is_batched else tensor.view_as(tensor)

        options = dict(self.transformer_options)
        chunks = len(options["cond_or_uncond"])
        for name in _OF_EACH_CHUNK:
            if chunks > 1 and name in options:
                options[name] = options[name][begin * chunks // whole : (begin + size) * chunks // whole]
        if isinstance(options.get("sigmas"), Tensor):
            options["sigmas"] = narrowed(options["sigmas"])
        return ModelCall(replace_tensors(self.args, narrowed), replace_tensors(dict(self.kwargs), narrowed), options)

    def run(self, model: Callable[..., Tensor]) -> Tensor:
        return model(*self.args, self.transformer_options, **self.kwargs)


def calls_other_extensions(transformer_options: Mapping[str, Any], inside: Sequence[str]) -> bool:
    """Whether a forward calls functions of other extensions, which may hold state between two calls.

    `inside` are the kinds of wrappers that are called within it.
    """
    options = transformer_options
    wrappers = (options.get("wrappers", {}).get(name, {}) for name in inside)
    is_wrapped = any(functions for of_kind in wrappers for key, functions in of_kind.items() if key != WRAPPER_KEY)
    is_patched = any(options.get(name) for name in _PATCHES)
    return is_patched or is_wrapped or any(callable(option) for option in options.values())


def run_micro_batches(patcher: Any, placement: ModelPlacement) -> None:
    """Have the patcher, and all its clones, run halves in micro-batches where their plan lets two cards compute."""

    def apply_model(executor: Any, *args: Any, **kwargs: Any) -> Tensor:
        *tensors, transformer_options = args
        call = ModelCall(tuple(tensors), kwargs, transformer_options)
        micro_batches = placement.distribution.micro_batches
        is_ours = executor.class_obj is placement.distribution.module  # and not a copy of it for another device
        if micro_batches is None or not is_ours or not call.has_micro_batches:
            return call.run(executor)
        batch_halves = [partial(call.half(index).run, executor) for index in (0, 1)]
        model_options = getattr(executor.class_obj.current_patcher, "model_options", {})
        in_turn = call.calls_other_extensions or "model_function_wrapper" in model_options
        return torch.cat(micro_batches.run(batch_halves, kind=call.shapes, in_turn=in_turn))

    wrapper = patcher_extension.WrappersMP.APPLY_MODEL
    patcher.add_wrapper_with_key(wrapper, WRAPPER_KEY, apply_model)
