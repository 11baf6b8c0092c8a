"""Quantised tensors count what they store, whatever their shape says."""

from __future__ import annotations

import enum
from typing import Any

import torch
from torch import nn

from multigpu.multigpu_core.allocation.inventory.of_module import inventory_of_module
from multigpu.multigpu_core.allocation.inventory.stored_size import storage_dtype_name, tensor_bytes


class GgmlKind(enum.IntEnum):
    Q4_K = 12


class GgmlLikeTensor(torch.Tensor):
    """Raw quantised bytes that claim the shape of the weight that they stand for."""

    tensor_type = GgmlKind.Q4_K

    @property
    def shape(self) -> torch.Size:  # type: ignore[override]
        return torch.Size((256, 10))


class ScaledTensor(torch.Tensor):
    """Eight-bit codes with a scale, shown as one bfloat16 tensor."""

    @staticmethod
    def __new__(cls, codes: torch.Tensor, scale: torch.Tensor) -> ScaledTensor:
        return torch.Tensor._make_wrapper_subclass(cls, codes.shape, dtype=torch.bfloat16, device=codes.device)

    def __init__(self, codes: torch.Tensor, scale: torch.Tensor) -> None:
        self.codes, self.scale = codes, scale

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["codes", "scale"], None

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        assert function is torch.ops.aten.detach.default, function
        return cls(arguments[0].codes, arguments[0].scale)


def test_a_ggml_tensor_counts_its_raw_bytes_and_names_its_ggml_type() -> None:
    tensor = torch.zeros(1440, dtype=torch.uint8).as_subclass(GgmlLikeTensor)
    assert tensor_bytes(tensor) == 1440
    assert storage_dtype_name(tensor) == "Q4_K"


def test_a_scaled_tensor_counts_codes_and_scale_and_names_the_type_of_its_codes() -> None:
    tensor = ScaledTensor(torch.zeros(8, 8, dtype=torch.float8_e4m3fn), torch.zeros(3))
    assert tensor_bytes(tensor) == 64 + 12
    assert storage_dtype_name(tensor) == "float8_e4m3fn"


def test_a_module_with_quantised_weights_is_as_large_as_what_it_stores() -> None:
    block = nn.Module()
    block.attn = nn.Module()
    codes, scale = torch.zeros(8, 8, dtype=torch.float8_e4m3fn), torch.zeros(3)
    block.attn.weight = nn.Parameter(ScaledTensor(codes, scale), requires_grad=False)
    inventory = inventory_of_module(nn.ModuleDict({"blocks": nn.ModuleList([block])}))
    assert [(b.name, b.dtype, b.size_bytes) for b in inventory.blocks] == [("blocks.0", "float8_e4m3fn", 76)]
