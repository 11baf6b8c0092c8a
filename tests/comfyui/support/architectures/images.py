"""Diffusion transformers that make images: real sizes, small ones, and the inputs of a forward."""

from __future__ import annotations

from typing import Any

import torch

from .architecture import Architecture, Draw, Inputs, Sizes, diffusion

FLUX = {
    "in_channels": 16, "out_channels": 16, "vec_in_dim": 768, "context_in_dim": 4096, "hidden_size": 3072,
    "mlp_ratio": 4.0, "num_heads": 24, "depth": 19, "depth_single_blocks": 38, "axes_dim": [16, 56, 56],
    "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": [],
}  # fmt: skip
SMALL_FLUX = {"vec_in_dim": 64, "context_in_dim": 64, "hidden_size": 128, "num_heads": 1, "depth": 2,
              "depth_single_blocks": 3}  # fmt: skip
FLUX2 = FLUX | {
    "in_channels": 128, "out_channels": 128, "vec_in_dim": None, "context_in_dim": 15360, "hidden_size": 6144,
    "mlp_ratio": 3.0, "num_heads": 48, "depth": 8, "depth_single_blocks": 48, "axes_dim": [32, 32, 32, 32],
    "theta": 2000, "patch_size": 1, "qkv_bias": False, "txt_ids_dims": [3], "global_modulation": True,
    "mlp_silu_act": True, "ops_bias": False,
}  # fmt: skip
LONGCAT = FLUX | {"vec_in_dim": None, "context_in_dim": 3584, "depth": 10, "depth_single_blocks": 20,
                  "guidance_embed": False, "txt_ids_dims": [1, 2]}  # fmt: skip
CHROMA = {key: value for key, value in FLUX.items() if key != "guidance_embed"} | {
    "in_channels": 64, "out_channels": 64, "in_dim": 64, "out_dim": 3072, "hidden_dim": 5120, "n_layers": 5,
    "vec_in_dim": None,
}  # fmt: skip
SMALL_CHROMA = {"context_in_dim": 64, "hidden_size": 128, "num_heads": 1, "depth": 2, "depth_single_blocks": 3,
                "out_dim": 128, "hidden_dim": 64, "n_layers": 2}  # fmt: skip
RADIANCE = CHROMA | {
    "in_channels": 3, "out_channels": 3, "patch_size": 16, "nerf_hidden_size": 64, "nerf_mlp_ratio": 4,
    "nerf_depth": 4, "nerf_max_freqs": 8, "nerf_tile_size": 512, "nerf_final_head_type": "conv",
    "nerf_embedder_dtype": torch.float32, "use_x0": False, "use_sequential_txt_ids": False,
}  # fmt: skip
LUMINA = {"patch_size": 2, "in_channels": 16, "dim": 2304, "n_layers": 26, "n_heads": 24, "n_kv_heads": 8,
          "cap_feat_dim": 2304, "axes_dims": [32, 32, 32], "axes_lens": [300, 512, 512], "qk_norm": True}  # fmt: skip
Z_IMAGE = LUMINA | {
    "dim": 3840, "n_layers": 30, "n_heads": 30, "n_kv_heads": 30, "cap_feat_dim": 2560, "axes_dims": [32, 48, 48],
    "axes_lens": [1536, 512, 512], "rope_theta": 256.0, "ffn_dim_multiplier": 8.0 / 3.0, "z_image_modulation": True,
    "time_scale": 1000.0, "pad_tokens_multiple": 32,
}  # fmt: skip
SMALL_LUMINA = {"dim": 96, "n_layers": 3, "n_heads": 1, "n_kv_heads": 1, "cap_feat_dim": 64, "multiple_of": 32}
SMALL_Z_IMAGE = SMALL_LUMINA | {"dim": 256, "n_heads": 2, "n_kv_heads": 2}
Z_PIXEL = Z_IMAGE | {"patch_size": 16, "in_channels": 3, "decoder_hidden_size": 3840, "decoder_num_res_blocks": 4,
                     "decoder_max_freqs": 8, "decoder_in_channels": 768}  # fmt: skip
SD35 = {
    "in_channels": 16, "depth": 38, "input_size": None, "qk_norm": "rms", "adm_in_channels": 2048,
    "num_patches": 36864, "pos_embed_max_size": 192,
    "context_embedder_config": {
        "target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 2432},
    },
}  # fmt: skip
SMALL_SD35 = {
    "depth": 3, "adm_in_channels": 64, "num_patches": 576, "pos_embed_max_size": 24, "x_block_self_attn_layers": [0],
    "context_size": 64,
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 64, "out_features": 192}},
}  # fmt: skip
HIDREAM = {
    "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 16, "num_single_layers": 32,
    "attention_head_dim": 128, "num_attention_heads": 20, "caption_channels": [4096, 4096], "text_emb_dim": 2048,
    "num_routed_experts": 4, "num_activated_experts": 2, "axes_dims_rope": [64, 32, 32],
    "max_resolution": [128, 128], "llama_layers": [*range(32), *[31] * 16],
}  # fmt: skip
SMALL_HIDREAM = {"num_layers": 2, "num_single_layers": 2, "num_attention_heads": 1, "caption_channels": [64, 64],
                 "text_emb_dim": 64, "llama_layers": [0, 1, 1, 1]}  # fmt: skip
SMALL_QWEN3 = {"vocab_size": 64, "hidden_size": 128, "intermediate_size": 64, "num_hidden_layers": 3,
               "num_attention_heads": 1, "num_key_value_heads": 1}  # fmt: skip
OMNIGEN2 = {"hidden_size": 2520, "num_layers": 32, "num_attention_heads": 21, "num_kv_heads": 7,
            "axes_dim_rope": [40, 40, 40], "axes_lens": [1024, 1664, 1664], "text_feat_dim": 2048,
            "timestep_scale": 1000.0}  # fmt: skip
SMALL_OMNIGEN2 = {"hidden_size": 120, "num_layers": 3, "num_attention_heads": 1, "num_kv_heads": 1,
                  "multiple_of": 32, "text_feat_dim": 64}  # fmt: skip
KANDINSKY = {"model_dim": 2560, "ff_dim": 10240, "num_visual_blocks": 50, "axes_dims": (32, 48, 48),
             "visual_embed_dim": 64, "time_dim": 1024}  # fmt: skip
PREDICT2 = {
    "max_img_h": 240, "max_img_w": 240, "max_frames": 128, "in_channels": 16, "out_channels": 16,
    "patch_spatial": 2, "patch_temporal": 1, "concat_padding_mask": True, "model_channels": 2048, "num_blocks": 28,
    "num_heads": 16, "crossattn_emb_channels": 1024, "pos_emb_cls": "rope3d", "pos_emb_learnable": True,
    "pos_emb_interpolation": "crop", "use_adaln_lora": True, "adaln_lora_dim": 256,
}  # fmt: skip
SMALL_PREDICT2 = {"model_channels": 128, "num_blocks": 3, "num_heads": 1, "adaln_lora_dim": 32}


def picture(channels: int, side: int = 8, *, text: int = 64, **also: Any) -> Inputs:
    """A small latent, a timestep and a prompt, under the names that most models use."""

    def inputs(draw: Draw) -> dict[str, Any]:
        made = {
            "x": draw(1, channels, side, side),
            "timestep": torch.tensor([0.5]),
            "context": draw(1, 7, text),
            "transformer_options": {},
        }
        return {**made, **{name: value(draw) if callable(value) else value for name, value in also.items()}}

    return inputs


def renamed(inputs: Inputs, **names: str) -> Inputs:
    """The same inputs for a model that calls some of them otherwise."""
    return lambda draw: {names.get(name, name): value for name, value in inputs(draw).items()}


def _timesteps(inputs: Inputs) -> Inputs:
    return renamed(inputs, timestep="timesteps")


def _pooled(draw: Draw) -> Any:
    return draw(1, 64)


def _guidance(_: Draw) -> Any:
    return torch.tensor([3.5])


def _hidream_o1(draw: Draw) -> dict[str, Any]:
    return {
        "x": draw(1, 3, 64, 64), "timesteps": torch.tensor([500.0]), "input_ids": draw.tokens(6),
        "position_ids": torch.arange(10).expand(1, 3, 10).clone(), "ar_len": 6, "transformer_options": {},
    }  # fmt: skip


def _hunyuan_dit(draw: Draw) -> dict[str, Any]:
    return {
        "x": draw(1, 4, 8, 8), "t": torch.tensor([5.0]), "context": draw(1, 77, 64),
        "text_embedding_mask": torch.ones(1, 77), "encoder_hidden_states_t5": draw(1, 16, 64),
        "text_embedding_mask_t5": torch.ones(1, 16), "image_meta_size": torch.full((1, 6), 64.0),
        "transformer_options": {},
    }  # fmt: skip


SMALL_HUNYUAN_DIT = {
    "hidden_size": 128, "depth": 4, "num_heads": 2, "mlp_ratio": 2.0, "text_states_dim": 64, "text_states_dim_t5": 64,
    "text_len_t5": 16,
}  # fmt: skip
SMALL_HIDREAM_O1: Sizes = {
    "text_config_overrides": SMALL_QWEN3 | {"vocab_size": 151_680},
    "vision_config_overrides": {"hidden_size": 64, "num_heads": 1, "intermediate_size": 64, "depth": 1},
}

ARCHITECTURES: dict[str, Architecture] = {
    "Flux.1": diffusion(
        "flux.model", "Flux", FLUX, SMALL_FLUX, picture(16, y=_pooled, guidance=_guidance),
        serves="Flux FluxInpaint FluxSchnell",
    ),
    "Flux.2": diffusion(
        "flux.model", "Flux", FLUX2, SMALL_FLUX | {"vec_in_dim": None, "in_channels": 16, "out_channels": 16},
        picture(16, 4, y=None, guidance=_guidance), serves="Flux2",
    ),
    "LongCat-Image": diffusion(
        "flux.model", "Flux", LONGCAT, SMALL_FLUX | {"vec_in_dim": None}, picture(16, y=None, guidance=None),
        serves="LongCatImage",
    ),
    "Chroma": diffusion(
        "chroma.model", "Chroma", CHROMA, SMALL_CHROMA, picture(16, guidance=_guidance), serves="Chroma",
    ),
    "Chroma Radiance": diffusion(
        "chroma_radiance.model", "ChromaRadiance", RADIANCE,
        SMALL_CHROMA | {"nerf_depth": 2, "nerf_hidden_size": 16, "nerf_mlp_ratio": 2},
        picture(3, 32, guidance=_guidance), serves="ChromaRadiance",
    ),
    "Qwen-Image": diffusion(
        "qwen_image.model", "QwenImageTransformer2DModel", {},
        {"num_layers": 3, "num_attention_heads": 1, "joint_attention_dim": 64},
        lambda draw: picture(16)(draw) | {"x": draw(1, 16, 1, 8, 8)}, serves="QwenImage",
    ),
    "Lumina 2": diffusion(
        "lumina.model", "NextDiT", LUMINA, SMALL_LUMINA, _timesteps(picture(16, num_tokens=7)), serves="Lumina2",
    ),
    "Z-Image": diffusion(
        "lumina.model", "NextDiT", Z_IMAGE, SMALL_Z_IMAGE, _timesteps(picture(16, num_tokens=7)), serves="ZImage",
    ),
    "Z-Image, pixel space": diffusion(
        "lumina.model", "NextDiTPixelSpace", Z_PIXEL, SMALL_Z_IMAGE | {"decoder_hidden_size": 64},
        _timesteps(picture(3, 32, num_tokens=7)), serves="ZImagePixelSpace",
    ),
    "SD3.5": diffusion(
        "modules.diffusionmodules.mmdit", "OpenAISignatureMMDITWrapper", SD35, SMALL_SD35,
        _timesteps(picture(16, y=_pooled)), serves="SD3",
    ),
    "AuraFlow": diffusion(
        "aura.mmdit", "MMDiT", {"max_seq": 4096},
        {"max_seq": 64, "dim": 128, "n_layers": 4, "n_double_layers": 2, "n_heads": 1, "global_conddim": 128,
         "cond_seq_dim": 64},
        picture(4), serves="AuraFlow",
    ),
    "PixArt": diffusion(
        "pixart.pixartms", "PixArtMS", {"input_size": 128, "micro_condition": False},
        {"input_size": 8, "hidden_size": 128, "depth": 3, "num_heads": 2, "caption_channels": 64},
        _timesteps(picture(4, 64)), serves="PixArtAlpha PixArtSigma",
    ),
    "HiDream-I1": diffusion(
        "hidream.model", "HiDreamImageTransformer2DModel", HIDREAM, SMALL_HIDREAM,
        renamed(picture(16, y=_pooled, encoder_hidden_states_llama3=lambda draw: draw(1, 2, 5, 64)), timestep="t"),
        serves="HiDream",
    ),
    "HiDream-O1": diffusion(
        "hidream_o1.model", "HiDreamO1Transformer", {}, SMALL_HIDREAM_O1, _hidream_o1, serves="HiDreamO1",
        keeps_vocabulary=True,
    ),
    "Hunyuan-DiT": diffusion(
        "hydit.models", "HunYuanDiT", {"hidden_size": 1408, "depth": 40, "mlp_ratio": 4.3637},
        SMALL_HUNYUAN_DIT, _hunyuan_dit, serves="HunyuanDiT HunyuanDiT1",
    ),
    "OmniGen 2": diffusion(
        "omnigen.omnigen2", "OmniGen2Transformer2DModel", OMNIGEN2, SMALL_OMNIGEN2,
        _timesteps(picture(16, num_tokens=7)), serves="Omnigen2",
    ),
    "Boogu-Image": diffusion(
        "boogu.model", "BooguTransformer2DModel", {},
        {"hidden_size": 120, "num_layers": 2, "num_double_stream_layers": 2, "num_attention_heads": 1,
         "num_kv_heads": 1, "multiple_of": 32, "instruction_feat_dim": 64},
        _timesteps(picture(16, num_tokens=7)), serves="Boogu",
    ),
    "Mage-Flow": diffusion(
        "mage_flow.model", "MageFlowTransformer2DModel", {},
        {"in_channels": 16, "out_channels": 16, "num_layers": 3, "num_attention_heads": 1, "joint_attention_dim": 64},
        picture(16, 4), serves="MageFlow",
    ),
    "JoyImage": diffusion(
        "joyimage.model", "JoyImageTransformer3DModel", {},
        {"hidden_size": 128, "num_attention_heads": 1, "text_dim": 64, "num_layers": 3},
        lambda draw: renamed(picture(16), x="hidden_states")(draw) | {"hidden_states": draw(1, 16, 1, 8, 8)},
        serves="JoyImage",
    ),
    "Ideogram 4": diffusion(
        "ideogram4.model", "Ideogram4Transformer2DModel", {},
        {"in_channels": 16, "num_layers": 3, "num_attention_heads": 1, "attention_head_dim": 128,
         "intermediate_size": 128, "adaln_dim": 32, "llm_features_dim": 64},
        _timesteps(picture(16, 4)), serves="Ideogram4",
    ),
    "Krea 2": diffusion(
        "krea2.model", "SingleStreamDiT", {},
        {"features": 128, "tdim": 64, "txtdim": 64, "heads": 1, "kvheads": 1, "layers": 3, "txtlayers": 2,
         "txtheads": 1, "txtkvheads": 1},
        _timesteps(picture(16, text=128)), serves="Krea2",
    ),
    "Lens": diffusion(
        "lens.model", "LensTransformer2DModel", {},
        {"in_channels": 16, "out_channels": 4, "num_layers": 3, "num_attention_heads": 1, "enc_hidden_dim": 64},
        picture(16, 4, text=256), serves="Lens",
    ),
    "Ernie-Image": diffusion(
        "ernie.model", "ErnieImageModel", {},
        {"hidden_size": 128, "num_attention_heads": 1, "num_layers": 3, "ffn_hidden_size": 128, "in_channels": 16,
         "out_channels": 16, "text_in_dim": 64},
        _timesteps(picture(16, 4)), serves="ErnieImage",
    ),
    "Anima": diffusion(
        "anima.model", "Anima", PREDICT2, SMALL_PREDICT2 | {"crossattn_emb_channels": 64},
        lambda draw: _timesteps(picture(16))(draw) | {
            "x": draw(1, 16, 1, 8, 8), "t5xxl_ids": draw.tokens(7), "t5xxl_weights": None,
        },
        serves="Anima",
        parts={"ldm.anima.model:LLMAdapter": {
            "source_dim": 64, "target_dim": 64, "model_dim": 64, "num_layers": 2, "num_heads": 1,
        }},
    ),
    "Kandinsky 5, image": diffusion(
        "kandinsky5.model", "Kandinsky5", KANDINSKY,
        {"in_text_dim": 64, "in_text_dim2": 64, "time_dim": 64, "model_dim": 128, "ff_dim": 128,
         "num_text_blocks": 2, "num_visual_blocks": 3},
        lambda draw: picture(16)(draw) | {"x": draw(1, 16, 1, 8, 8), "y": draw(1, 64)}, serves="Kandinsky5Image",
    ),
    "PixelDiT": diffusion(
        "pixeldit.model", "PixDiT_T2I", {},
        {"num_groups": 2, "hidden_size": 128, "pixel_attn_hidden_size": 64, "pixel_num_groups": 1, "patch_depth": 3,
         "txt_embed_dim": 64, "txt_max_length": 8},
        _timesteps(picture(3, 32)), serves="PixelDiTT2I",
    ),
    "PiD": diffusion(
        "pixeldit.pid", "PidNet", {},
        {"num_groups": 2, "hidden_size": 128, "pixel_attn_hidden_size": 64, "pixel_num_groups": 1, "patch_depth": 3,
         "txt_embed_dim": 64, "txt_max_length": 8, "lq_hidden_dim": 32, "lq_num_res_blocks": 2},
        _timesteps(picture(3, 64, lq_latent=lambda draw: draw(1, 16, 2, 2), degrade_sigma=torch.tensor([0.3]))),
        serves="PiD",
    ),
}  # fmt: skip
