"""Text encoders, and the vision tower that goes with CLIP: real configurations and small ones."""

from __future__ import annotations

from typing import Any

import torch

from .architecture import Architecture, Draw, text_encoder

T5 = {"d_model": 64, "d_ff": 64, "d_kv": 32, "num_heads": 2, "num_layers": 3, "vocab_size": 64}
CLIP = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 1, "num_hidden_layers": 3}
LLAMA = {
    "vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 1,
    "num_key_value_heads": 1,
}  # fmt: skip


VISION = {"hidden_size": 64, "intermediate_size": 64, "num_heads": 1, "num_layers": 1}


def _clip_words(draw: Draw) -> dict[str, Any]:
    return {"input_tokens": draw.tokens(77), "num_tokens": [9]}


def _qwen_words(draw: Draw) -> dict[str, Any]:
    return {"x": draw.tokens(9), "attention_mask": torch.ones(1, 9), "dtype": torch.float32}


def _picture(draw: Draw) -> dict[str, Any]:
    return {"pixel_values": draw(1, 3, 224, 224)}


ARCHITECTURES: dict[str, Architecture] = {
    "T5 XXL": text_encoder(
        "text_encoders.t5", "T5", T5, config_file="t5_config_xxl.json", keeps_vocabulary=False
    ),
    "UMT5 XXL": text_encoder("text_encoders.t5", "T5", T5, config_file="umt5_config_xxl.json"),
    "CLIP L": text_encoder(
        "clip_model", "CLIPTextModel", CLIP, config_file="sd1_clip_config.json", inputs=_clip_words
    ),
    "CLIP G": text_encoder(
        "clip_model", "CLIPTextModel", CLIP, config_file="clip_config_bigg.json", inputs=_clip_words
    ),
    "CLIP vision H": text_encoder(
        "clip_model", "CLIPVisionModelProjection", CLIP | {"projection_dim": 64},
        config_file="clip_vision_config_h.json", inputs=_picture, keeps_vocabulary=False,
    ),
    "Llama 3.1 8B": text_encoder("text_encoders.llama", "Llama2", LLAMA),
    "Mistral Small 3 24B": text_encoder("text_encoders.llama", "Mistral3Small24B", LLAMA, keeps_vocabulary=False),
    "Qwen 2.5 3B": text_encoder("text_encoders.llama", "Qwen25_3B", LLAMA),
    "Qwen 2.5 VL 7B": text_encoder(
        "text_encoders.llama", "Qwen25_7BVLI", LLAMA, inputs=_qwen_words,
        parts={"text_encoders.qwen_vl:Qwen2VLVisionTransformer": VISION},
    ),
    "Qwen 3 4B": text_encoder("text_encoders.llama", "Qwen3_4B", LLAMA),
    "Qwen 3 8B": text_encoder("text_encoders.llama", "Qwen3_8B", LLAMA),
    "Qwen 3 8B, merged linears": text_encoder(
        "text_encoders.llama", "Qwen3_8B", LLAMA | {"merged_qkv": True, "merged_mlp": True}, since="0.33"
    ),
    "Qwen 3 VL 8B": text_encoder(
        "text_encoders.qwen3vl", "Qwen3VL", LLAMA,
        parts={"text_encoders.qwen3vl:Qwen3VLVisionModel": VISION | {"depth": 1, "deepstack_visual_indexes": [0]}},
    ),
    "Gemma 2 2B": text_encoder("text_encoders.llama", "Gemma2_2B", LLAMA),
    "Gemma 3 4B": text_encoder("text_encoders.llama", "Gemma3_4B", LLAMA),
    "Gemma 3 12B": text_encoder(
        "text_encoders.llama", "Gemma3_12B", LLAMA,
        parts={"clip_model:CLIPVision": CLIP | {"num_attention_heads": 1}},
    ),
}  # fmt: skip
