"""What is known of one architecture: its class in ComfyUI, its real sizes, small ones, and the inputs of a forward.

Nothing here imports ComfyUI before a model is built. At its real sizes a model is built on the meta device, so that
14 billion parameters cost no memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

Sizes = Mapping[str, Any]
Parts = Mapping[str, Sizes | type[nn.Module]]
"""Parts whose sizes the class of a model takes for granted, as `module:Class`: smaller sizes, or what stands in."""


class Draw:
    """Draws the made-up inputs of a forward, the same ones each time."""

    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(1)

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._generator)

    def tokens(self, count: int, below: int = 64) -> Tensor:
        return torch.randint(1, below, (1, count), generator=self._generator)


BLOCKS_ALONE = "its blocks alone are checked here"

Inputs = Callable[[Draw], dict[str, Any]]
Build = Callable[[Any, Sizes, "Where"], nn.Module]


@dataclass(frozen=True)
class Where:
    """The device and the type of a model that is built."""

    device: str
    dtype: torch.dtype


@dataclass(frozen=True)
class Architecture:
    """One class of models.

    `home` is a module of the package `comfy` and `cls` its class. `small` replaces some of the real `sizes`, and
    `inputs` are those of one forward of the small model; without them there is none to compare. `serves` are the
    entries of `comfy.supported_models` that are built of this class. `real_device` is another than meta for a class
    that computes while it is built; its weights are never written, so that they take no memory. `movable_share` is how
    much of its bytes may move at least. With `keeps_vocabulary` that leaves out the embeddings of a vocabulary, which
    are many and stay on the compute device. `since` is the first ComfyUI that has the class, if the tests run in older
    ones. `not_computed` says why there are no inputs, and `not_relayed` why a donor cannot compute its blocks.
    """

    home: str
    cls: str
    build_with: Build
    sizes: Sizes
    small: Sizes | None = None
    inputs: Inputs | None = None
    serves: tuple[str, ...] = ()
    parts: Parts = field(default_factory=dict)
    real_device: str = "meta"
    movable_share: float = 0.95
    keeps_vocabulary: bool = False
    since: str = ""
    not_computed: str = ""
    not_relayed: str = ""

    def real(self) -> nn.Module:
        """The model at its real sizes, without weights."""
        return self.build_with(self._class(), self.sizes, Where(self.real_device, torch.bfloat16))

    def tiny(self) -> nn.Module:
        """The small model, with made-up weights."""
        with _replaced(self.parts):
            model = self.build_with(self._class(), {**self.sizes, **(self.small or {})}, Where("cpu", torch.float32))
        fill(model)
        return model.eval().requires_grad_(requires_grad=False)

    def _class(self) -> Any:
        return getattr(import_module(f"comfy.{self.home}"), self.cls)


def fill(model: nn.Module) -> None:
    """Give a model weights under which activations stay near one."""
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and weight.numel():
            noise = torch.empty(weight.shape).uniform_(-1.7, 1.7, generator=generator).to(weight.dtype)
            is_scale = weight.dim() < 2 and ("norm" in name or "scale" in name)
            fan_in = weight.numel() // weight.shape[0] if weight.dim() else 1
            weight.data = 1 + noise / 10 if is_scale else noise * fan_in**-0.5


@contextmanager
def _replaced(parts: Parts) -> Iterator[None]:
    """Let ComfyUI build these parts otherwise."""
    with ExitStack() as stack:
        for place, by in parts.items():
            home, _, name = place.partition(":")
            module = import_module(f"comfy.{home}")
            made = by if isinstance(by, type) else _overriding(getattr(module, name), by)
            stack.enter_context(mock.patch.object(module, name, made))
        yield


def _overriding(cls: Any, sizes: Sizes) -> Callable[..., nn.Module]:
    def build(*args: Any, **options: Any) -> nn.Module:
        if args:  # a configuration, as a dictionary
            args = ({**args[0], **sizes}, *args[1:])
        else:
            options = {**options, **sizes}
        made: nn.Module = cls(*args, **options)
        return made

    return build


def diffusion(
    home: str,
    cls: str,
    sizes: Sizes,
    small: Sizes | None = None,
    inputs: Inputs | None = None,
    serves: str = "",
    **also: Any,
) -> Architecture:
    """A diffusion model, as a patcher holds it: under the attribute `diffusion_model`."""

    def build(model: Any, sizes: Sizes, where: Where) -> nn.Module:
        wrapper = nn.Module()
        wrapper.diffusion_model = model(device=where.device, dtype=where.dtype, operations=_operations(), **sizes)
        return wrapper

    return Architecture(f"ldm.{home}", cls, build, sizes, small, inputs, tuple(serves.split()), **also)


def text_encoder(
    home: str, cls: str, small: Sizes, *, config_file: str | None = None, inputs: Inputs | None = None, **also: Any
) -> Architecture:
    """An encoder with the configuration that ComfyUI ships beside it, or else with its own defaults."""

    def build(model: Any, sizes: Sizes, where: Where) -> nn.Module:
        folder = Path(import_module(model.__module__).__file__ or "").parent
        config = json.loads((folder / config_file).read_text()) if config_file else {}
        encoder: nn.Module = model(
            {**config, **sizes}, dtype=where.dtype, device=where.device, operations=_operations()
        )
        return encoder

    keeps = {"keeps_vocabulary": True, **also}
    return Architecture(home, cls, build, {}, small, inputs or words, **keeps)


def words(draw: Draw) -> dict[str, Any]:
    """The tokens of a prompt."""
    return {"input_ids": draw.tokens(9), "attention_mask": torch.ones(1, 9), "dtype": torch.float32}


def controlnet(home: str, cls: str, sizes: Sizes) -> Architecture:
    """A ControlNet, of which the blocks alone are compared."""

    def build(model: Any, sizes: Sizes, where: Where) -> nn.Module:
        made: nn.Module = model(device=where.device, dtype=where.dtype, operations=_operations(), **sizes)
        return made

    return Architecture(home, cls, build, sizes, not_computed=BLOCKS_ALONE)


def vae(home: str, cls: str, sizes: Sizes) -> Architecture:
    """A VAE, of which the blocks alone are compared."""

    def build(model: Any, sizes: Sizes, where: Where) -> nn.Module:
        with torch.device(where.device):
            made: nn.Module = model(**sizes)
        return made

    return Architecture(f"ldm.{home}", cls, build, sizes, not_computed=BLOCKS_ALONE)


def _operations() -> Any:
    return import_module("comfy.ops").disable_weight_init
