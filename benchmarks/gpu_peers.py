"""How others run a model whose blocks all wait in host memory: each peer that is installed (extra `bench`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

import torch
from torch import nn

Prepare = Callable[[nn.Module, torch.device], object]


def peers() -> Iterator[tuple[str, Prepare]]:
    """Names, and what makes a model in host memory compute on a device."""
    with suppress(ImportError):
        from accelerate import cpu_offload

        yield "accelerate, dispatched", lambda model, device: cpu_offload(model, device, offload_buffers=True)
    with suppress(ImportError):
        from diffusers.hooks import apply_group_offloading

        streamed = partial(apply_group_offloading, offload_device=torch.device("cpu"), use_stream=True)
        yield "diffusers, a block a group, with streams", partial(_grouped, streamed, "block_level")
        yield "diffusers, leaves, with streams", partial(_grouped, streamed, "leaf_level")


def _grouped(apply: Callable[..., None], kind: str, model: nn.Module, device: torch.device) -> None:
    groups = {"num_blocks_per_group": 1} if kind == "block_level" else {}
    apply(model, onload_device=device, offload_type=kind, **groups)
