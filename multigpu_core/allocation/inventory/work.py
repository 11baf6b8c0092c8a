"""How much a block computes, estimated from the names and sizes of its weights.

A transfer hides behind the compute of other blocks, and not every byte of weights computes as much: what is multiplied
with every token of the picture counts in full, what only meets the text counts by the text's share of the tokens, and
modulations, which meet one token, do not count. (In Flux a double block has 2.4 times the bytes of a single one, and
computes as long.)
"""

from __future__ import annotations

import re

from multigpu.multigpu_core.allocation.formats.ggml_types import ggml_bits

TEXT_SHARE = 9
"""One part of the tokens in so many is text: 512 of 4,608 for Flux at 1024 x 1024."""

_MODULATION = re.compile(
    r"(^|[._])(ada_?ln|modulation|mod|emb_layers|time_emb_proj|norm\d?(_context)?\.linear)([._]|$)", re.IGNORECASE
)
_TEXT = re.compile(
    r"(^|\.)(txt_|text|context_block|add_[qkv]_proj|to_add_out|ff_context|cross_attn\.[kv]|attn2\.to_[kv])"
)
_BITS = {"float64": 64, "int64": 64, "float32": 32, "int32": 32, "float16": 16, "bfloat16": 16, "int16": 16}
_EIGHT_BITS = 8


def work_of(name: str, dtype: str, size_bytes: int) -> int:
    """Multiplications of one weight with one token, over the number of the picture's tokens.

    `name` is the tensor's within its block. For a linear layer that meets every token it is the number of its weights.
    """
    if _MODULATION.search(name):
        return 0
    weights = int(size_bytes * 8 / _bits_of(dtype))
    return weights // TEXT_SHARE if _TEXT.search(name) else weights


def _bits_of(dtype: str) -> float:
    if dtype in _BITS:
        return _BITS[dtype]
    is_ggml = dtype.isupper()  # torch and safetensors write their types in lower case
    return (ggml_bits(dtype) if is_ggml else None) or _EIGHT_BITS
