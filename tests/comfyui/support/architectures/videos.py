"""Diffusion transformers that make videos, sound and shapes: real sizes, small ones, and the inputs of a forward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .architecture import Architecture, Draw, Inputs, diffusion
from .images import FLUX, PREDICT2, SMALL_FLUX, SMALL_PREDICT2, renamed

HUNYUAN_VIDEO = {key: value for key, value in FLUX.items() if key != "txt_ids_dims"} | {
    "in_channels": 16, "depth": 20, "depth_single_blocks": 40, "theta": 256, "patch_size": [1, 2, 2],
    "byt5": False, "meanflow": False, "use_cond_type_embedding": False, "vision_in_dim": None, "meanflow_sum": False,
}  # fmt: skip
HUNYUAN_VIDEO_15 = HUNYUAN_VIDEO | {
    "in_channels": 65, "out_channels": 32, "vec_in_dim": None, "context_in_dim": 3584, "hidden_size": 2048,
    "num_heads": 16, "depth": 54, "depth_single_blocks": 0, "patch_size": [1, 1, 1], "guidance_embed": False,
    "byt5": True, "use_cond_type_embedding": True, "vision_in_dim": 1152, "meanflow_sum": True,
}  # fmt: skip
WAN = {"dim": 5120, "ffn_dim": 13824, "num_heads": 40, "num_layers": 40}
SMALL_WAN = {"dim": 128, "ffn_dim": 128, "num_heads": 1, "num_layers": 3, "freq_dim": 64, "text_dim": 64}
MOCHI = {
    "in_channels": 12, "hidden_size_x": 3072, "hidden_size_y": 1536, "num_heads": 24, "mlp_ratio_x": 4.0,
    "use_t5": True, "learn_sigma": False, "qk_norm": True, "mlp_ratio_y": 4.0, "qkv_bias": False, "out_bias": True,
    "attn_drop": 0.0,
}  # fmt: skip
SMALL_MOCHI = {"hidden_size_x": 256, "hidden_size_y": 128, "mlp_ratio_x": 48.0, "depth": 3, "num_heads": 2,
               "t5_feat_dim": 64,
               "t5_token_length": 7, "patch_embed_bias": True, "timestep_scale": 1000.0,
               "rope_theta": 10000.0}  # fmt: skip
LTXV = {"num_layers": 28}
SMALL_LTX = {"cross_attention_dim": 64, "attention_head_dim": 64, "num_attention_heads": 1, "caption_channels": 64,
             "num_layers": 3}  # fmt: skip
LTXAV = {
    "use_middle_indices_grid": True, "causal_temporal_positioning": True, "rope_type": "split",
    "caption_proj_before_connector": False,
}  # fmt: skip
SMALL_LTXAV = SMALL_LTX | {
    "cross_attention_dim": 128, "attention_head_dim": 128, "audio_cross_attention_dim": 64,
    "audio_attention_head_dim": 64, "audio_num_attention_heads": 1, "connector_attention_head_dim": 32,
    "connector_num_attention_heads": 2, "connector_num_layers": 1,
}  # fmt: skip
COSMOS = {
    "max_img_h": 240, "max_img_w": 240, "max_frames": 128, "in_channels": 16, "out_channels": 16, "patch_spatial": 2,
    "patch_temporal": 1, "model_channels": 4096, "num_blocks": 28, "num_heads": 32, "block_x_format": "THWBD",
    "use_adaln_lora": True, "pos_emb_cls": "rope3d", "extra_per_block_abs_pos_emb": True, "affline_emb_norm": True,
    "extra_per_block_abs_pos_emb_type": "learnable",
}  # fmt: skip
SMALL_KANDINSKY = {"in_text_dim": 64, "in_text_dim2": 64, "time_dim": 64, "model_dim": 64, "ff_dim": 64,
                   "num_text_blocks": 2, "num_visual_blocks": 3}  # fmt: skip
KANDINSKY = {"model_dim": 1792, "ff_dim": 7168, "num_visual_blocks": 32, "time_dim": 512, "axes_dims": (16, 24, 24)}
SEEDVR2 = {"num_layers": 32, "norm_eps": 1e-5, "mlp_type": "swiglu", "vid_out_norm": True}
ACE = {
    "attention_head_dim": 128, "inner_dim": 2560, "max_width": 32768, "mlp_ratio": 2.5, "num_attention_heads": 20,
    "num_layers": 24, "ssl_encoder_depths": [8, 8], "lyric_encoder_vocab_size": 6693,
}  # fmt: skip
ACE15 = {}  # its own defaults are the published sizes
SMALL_ACE15 = {
    "in_channels": 24, "hidden_size": 64, "text_hidden_dim": 64, "timbre_hidden_dim": 8,
    "audio_acoustic_hidden_dim": 8, "num_dit_layers": 2, "num_lyric_layers": 1, "num_timbre_layers": 1,
    "num_tokenizer_layers": 1, "num_heads": 1, "num_kv_heads": 1, "intermediate_size": 64, "fsq_dim": 64,
    "encoder_hidden_size": 64, "encoder_intermediate_size": 64, "encoder_num_heads": 1,
}  # fmt: skip
STABLE_AUDIO = {"audio_model": "dit1.0"}
MINIMAX_H3 = {}  # its own defaults are the published sizes
SMALL_MINIMAX = {
    "hidden_size": 128, "num_layers": 3, "token_refiner_num_layers": 1, "num_attention_heads": 1,
    "ffn_hidden_size": 128, "text_dim": 64, "timestep_input_dim": 64, "time_embed_hidden_size": 64,
    "time_embed_dim": 64,
}  # fmt: skip


class Faces(nn.Module):
    """Stands in for the encoder of Wan Animate that takes faces of 512 pixels."""

    def __init__(self, **_: Any) -> None:
        super().__init__()

    def get_motion(self, faces: Tensor) -> Tensor:
        return faces.flatten(1)[:, :512]


def video(channels: int, *, text: int = 64, side: int = 8, timestep: float = 500.0, **also: Any) -> Inputs:
    """Three small latent frames, a timestep and a prompt, under the names that most models use."""

    def inputs(draw: Draw) -> dict[str, Any]:
        made = {
            "x": draw(1, channels, 3, side, side),
            "timestep": torch.tensor([timestep]),
            "context": draw(1, 7, text),
            "transformer_options": {},
        }
        return {**made, **{name: value(draw) if callable(value) else value for name, value in also.items()}}

    return inputs


def _clip(draw: Draw) -> Any:
    return draw(1, 257, 1280)


def _sound(draw: Draw) -> dict[str, Any]:
    return {
        "x": draw(1, 8, 16, 8), "timestep": torch.tensor([500.0]), "context": draw(1, 7, 64),
        "speaker_embeds": draw(1, 64), "lyric_token_idx": draw.tokens(5),
        "lyric_mask": torch.ones(1, 5), "transformer_options": {},
    }  # fmt: skip


def _song(draw: Draw) -> dict[str, Any]:
    return {
        "x": draw(1, 8, 10), "timestep": torch.tensor([0.5]), "context": draw(1, 7, 64), "lyric_embed": draw(1, 5, 64),
        "refer_audio": draw(1, 8, 10),
    }  # fmt: skip


def _both(frames: Any, sound: Any, **also: Any) -> Inputs:
    """Inputs of a model that makes frames and sound at once."""

    def inputs(draw: Draw) -> dict[str, Any]:
        made = {"x": [draw(*frames), draw(*sound)], "context": draw(1, 7, 128), "transformer_options": {}}
        return {**made, **{name: value(draw) if callable(value) else value for name, value in also.items()}}

    return inputs


ARCHITECTURES: dict[str, Architecture] = {
    "Wan 2.1/2.2, text to video": diffusion(
        "wan.model", "WanModel", WAN, SMALL_WAN, video(16), serves="WAN21_T2V WAN22_T2V WAN21_FlowRVS",
    ),
    "Wan 2.1/2.2, image to video": diffusion(
        "wan.model", "WanModel", WAN | {"model_type": "i2v", "in_dim": 36}, SMALL_WAN, video(36, clip_fea=_clip),
        serves="WAN21_I2V WAN21_FunControl2V",
    ),
    "Wan, autoregressive": diffusion(
        "wan.ar_model", "CausalWanModel", WAN | {"dim": 1536, "ffn_dim": 8960, "num_heads": 12, "num_layers": 30},
        SMALL_WAN, video(16), serves="WAN21_CausalAR_T2V",
    ),
    "Wan VACE": diffusion(
        "wan.model", "VaceWanModel", WAN | {"vace_layers": 8, "vace_in_dim": 96},
        SMALL_WAN | {"num_layers": 4, "vace_layers": 2},
        video(16, vace_context=lambda draw: draw(1, 1, 96, 3, 8, 8), vace_strength=[1.0]), serves="WAN21_Vace",
    ),
    "Wan, camera control": diffusion(
        "wan.model", "CameraWanModel", WAN | {"in_dim": 36}, SMALL_WAN,
        video(36, clip_fea=_clip, camera_conditions=lambda draw: draw(1, 24, 3, 64, 64)),
        serves="WAN21_Camera WAN22_Camera",
    ),
    "Wan HuMo": diffusion(
        "wan.model", "HumoWanModel", WAN | {"in_dim": 36}, SMALL_WAN,
        video(36, audio_embed=lambda draw: draw(1, 3, 2, 1, 64)), serves="WAN21_HuMo",
        parts={"ldm.wan.model:AudioProjModel": {"seq_len": 2, "blocks": 1, "channels": 64, "intermediate_dim": 64}},
    ),
    "Wan, speech to video": diffusion(
        "wan.model", "WanModel_S2V", WAN, SMALL_WAN | {"num_layers": 4, "audio_dim": 64, "audio_inject_layers": [0, 2]},
        video(
            16, audio_embed=lambda draw: draw(1, 25, 64, 12), reference_latent=lambda draw: draw(1, 16, 1, 8, 8),
            control_video=lambda draw: draw(1, 16, 3, 8, 8), reference_motion=lambda draw: draw(1, 16, 19, 8, 8),
        ),
        serves="WAN22_S2V",
    ),
    "Wan Animate": diffusion(
        "wan.model_animate", "AnimateWanModel", WAN | {"in_dim": 36}, SMALL_WAN | {"num_layers": 5},
        video(36, clip_fea=_clip, pose_latents=lambda draw: draw(1, 16, 2, 8, 8),
              face_pixel_values=lambda draw: draw(1, 3, 4, 16, 16)),
        serves="WAN22_Animate", parts={"ldm.wan.model_animate:Generator": Faces},
    ),
    "Wan Animate 2": diffusion(
        "wan.model_animate2", "WanAnimate2Model", WAN, SMALL_WAN,
        video(36, clip_fea=_clip, clip_fea_pose=_clip, context_pose=lambda draw: draw(1, 7, 64),
              pose_latents=lambda draw: draw(1, 16, 2, 8, 8)),
        serves="WAN_Animate2", since="0.33",
    ),
    "Wan SCAIL": diffusion(
        "wan.model", "SCAILWanModel", WAN | {"in_dim": 20}, SMALL_WAN,
        video(20, clip_fea=_clip, pose_latents=lambda draw: draw(1, 20, 3, 4, 4)), serves="WAN21_SCAIL",
    ),
    "Wan SCAIL 2": diffusion(
        "wan.model", "SCAIL2WanModel", WAN | {"in_dim": 20}, SMALL_WAN,
        video(20, clip_fea=_clip, pose_latents=lambda draw: draw(1, 20, 3, 4, 4),
              sam_latents=lambda draw: draw(1, 28, 3, 4, 4)),
        serves="WAN21_SCAIL2",
    ),
    "WanDancer": diffusion(
        "wan.model_wandancer", "WanDancerModel", WAN | {"in_dim": 36},
        SMALL_WAN | {"num_layers": 4, "audio_inject_layers": [0, 2], "music_dim": 64, "music_heads": 1,
                     "music_latent_dim": 64},
        video(36, clip_fea=_clip, clip_fea_ref=_clip, audio_embed=lambda draw: draw(1, 12, 35)),
        serves="WAN22_WanDancer",
    ),
    "HunyuanVideo": diffusion(
        "hunyuan_video.model", "HunyuanVideo", HUNYUAN_VIDEO, SMALL_FLUX,
        video(16, y=lambda draw: draw(1, 64), guidance=torch.tensor([6.0])),
        serves="HunyuanVideo HunyuanVideoI2V HunyuanVideoSkyreelsI2V",
    ),
    "HunyuanVideo 1.5": diffusion(
        "hunyuan_video.model", "HunyuanVideo", HUNYUAN_VIDEO_15,
        {"context_in_dim": 64, "hidden_size": 128, "num_heads": 1, "depth": 3, "vision_in_dim": 64},
        video(65, side=4, txt_byt5=lambda draw: draw(1, 5, 1472), clip_fea=lambda draw: draw(1, 6, 64)),
        serves="HunyuanVideo15 HunyuanVideo15_SR_Distilled",
    ),
    "HunyuanImage 2.1": diffusion(
        "hunyuan_video.model", "HunyuanVideo",
        HUNYUAN_VIDEO | {"in_channels": 64, "out_channels": 64, "vec_in_dim": None, "context_in_dim": 3584,
                         "hidden_size": 3584, "num_heads": 28, "patch_size": [1, 1], "axes_dim": [64, 64],
                         "byt5": True},
        SMALL_FLUX | {"vec_in_dim": None},
        lambda draw: video(64, txt_byt5=lambda draw: draw(1, 5, 1472), guidance=torch.tensor([6.0]))(draw)
        | {"x": draw(1, 64, 4, 4)},
        serves="HunyuanImage21 HunyuanImage21Refiner",
    ),
    "LTX-Video": diffusion(
        "lightricks.model", "LTXVModel", LTXV, SMALL_LTX, video(128, side=4, timestep=0.5, attention_mask=None),
        serves="LTXV",
    ),
    "LTX-2, video and audio": diffusion(
        "lightricks.av_model", "LTXAVModel", LTXAV, SMALL_LTXAV,
        _both((1, 128, 3, 4, 4), (1, 8, 5, 16), timestep=lambda draw: (torch.tensor([0.5]), torch.tensor([0.5])),
              attention_mask=None),
        serves="LTXAV",
    ),
    "MiniMax-H3": diffusion(
        "minimax.model", "MiniMaxH3Model", MINIMAX_H3, SMALL_MINIMAX,
        lambda draw: _both((1, 24, 2, 4, 4), (1, 32, 2, 5), timestep=torch.tensor([500.0]))(draw)
        | {"context": draw(1, 7, 64)},
        serves="MiniMaxH3",
    ),
    "Mochi": diffusion(
        "genmo.joint_model.asymm_models_joint", "AsymmDiTJoint", MOCHI, SMALL_MOCHI,
        video(12, timestep=0.5, attention_mask=torch.ones(1, 7, dtype=torch.bool), num_tokens=7), serves="GenmoMochi",
    ),
    "Cosmos 1": diffusion(
        "cosmos.model", "GeneralDIT", COSMOS,
        {"max_img_h": 16, "max_img_w": 16, "max_frames": 8, "model_channels": 128, "num_blocks": 3, "num_heads": 1,
         "crossattn_emb_channels": 64, "adaln_lora_dim": 32},
        renamed(video(16, timestep=0.5), timestep="timesteps"), serves="CosmosT2V CosmosI2V",
    ),
    "Cosmos Predict 2": diffusion(
        "cosmos.predict2", "MiniTrainDIT", PREDICT2, SMALL_PREDICT2 | {"crossattn_emb_channels": 64},
        renamed(video(16, timestep=0.5), timestep="timesteps"), serves="CosmosT2IPredict2 CosmosI2VPredict2",
    ),
    "Kandinsky 5, video": diffusion(
        "kandinsky5.model", "Kandinsky5", KANDINSKY, SMALL_KANDINSKY, video(33, y=lambda draw: draw(1, 64)),
        serves="Kandinsky5",
    ),
    "CogVideoX": diffusion(
        "cogvideo.model", "CogVideoXTransformer3DModel",
        {"num_attention_heads": 48, "num_layers": 42, "use_rotary_positional_embeddings": True},
        {"num_attention_heads": 1, "time_embed_dim": 64, "text_embed_dim": 64, "num_layers": 3},
        video(16), serves="CogVideoX_T2V CogVideoX_I2V CogVideoX_Inpaint",
    ),
    "SeedVR2": diffusion(
        "seedvr.model", "NaDiT", SEEDVR2,
        {"num_layers": 2, "vid_dim": 128, "txt_in_dim": 64, "heads": 1, "mm_layers": 1, "expand_ratio": 2},
        video(16, condition=lambda draw: draw(1, 17, 3, 8, 8),
              transformer_options={"cond_or_uncond": [0]}),
        serves="SeedVR2", not_relayed="its blocks share functions that hold tensors of one device",
    ),
    "ACE-Step": diffusion(
        "ace.model", "ACEStepTransformer2DModel", ACE,
        {"inner_dim": 128, "num_attention_heads": 1, "num_layers": 3, "speaker_embedding_dim": 64,
         "text_embedding_dim": 64, "ssl_latent_dims": [64, 64], "lyric_encoder_vocab_size": 64,
         "lyric_hidden_size": 64},
        _sound, serves="ACEStep",
        parts={"ldm.ace.model:LyricEncoder": {
            "output_size": 64, "attention_heads": 1, "linear_units": 64, "num_blocks": 2,
        }},
    ),
    "ACE-Step 1.5": diffusion(
        "ace.ace_step15", "AceStepConditionGenerationModel", ACE15, SMALL_ACE15, _song, serves="ACEStep15",
        real_device="cpu",
    ),
    "MiniMax-Music 3": diffusion(
        "minimax_music.dit", "MiniMaxMusic3DiT", {}, serves="MiniMaxMusic3", since="0.33",
        not_computed="its sizes, 2 billion parameters, are fixed in its class",
    ),
    "Stable Audio": diffusion(
        "audio.dit", "AudioDiffusionTransformer", STABLE_AUDIO,
        {"io_channels": 8, "embed_dim": 128, "cond_token_dim": 64, "global_cond_dim": 64, "depth": 3, "num_heads": 2},
        lambda draw: {"x": draw(1, 8, 6), "timestep": torch.tensor([0.5]), "context": draw(1, 7, 64),
                      "global_embed": draw(1, 64)},
        serves="StableAudio StableAudio3",
    ),
    "Hunyuan3D 2": diffusion(
        "hunyuan3d.model", "Hunyuan3Dv2", {},
        {"in_channels": 8, "context_in_dim": 64, "hidden_size": 128, "num_heads": 1, "depth": 2,
         "depth_single_blocks": 3},
        lambda draw: {"x": draw(1, 8, 6), "timestep": torch.tensor([0.5]), "context": draw(1, 7, 64)},
        serves="Hunyuan3Dv2 Hunyuan3Dv2mini",
    ),
    "Hunyuan3D 2.1": diffusion(
        "hunyuan3dv2_1.hunyuandit", "HunYuanDiTPlain", {"guidance_cond_proj_dim": None},
        {"in_channels": 8, "hidden_size": 128, "context_dim": 64, "depth": 5, "num_heads": 1, "num_moe_layers": 2,
         "num_experts": 4},
        lambda draw: {"x": draw(1, 8, 6), "t": torch.tensor([0.5]), "context": draw(1, 7, 64)},
        serves="Hunyuan3Dv2_1",
    ),
    "Trellis 2": diffusion(
        "trellis2.model", "Trellis2", {"resolution": 64, "init_txt_model": True},
        {"model_channels": 128, "cond_channels": 64, "num_blocks": 3, "num_heads": 1},
        lambda draw: {"x": draw(1, 8, 16, 16, 16), "timestep": torch.tensor([0.5]), "context": draw(1, 7, 64),
                      "embeds": draw(1, 7, 64), "transformer_options": {}},
        serves="Trellis2", since="0.33",
    ),
    "TripoSplat": diffusion(
        "triposplat.model", "LatentSeqMMFlowModel", {},
        {"q_token_length": 16, "model_channels": 128, "cond_channels": 64, "num_blocks": 3, "num_refiner_blocks": 1},
        lambda draw: {"x": [draw(1, 16, 16), draw(1, 1, 5)], "t": torch.tensor([0.5]), "context": draw(1, 7, 64),
                      "transformer_options": {}},
        serves="TripoSplat",
    ),
}  # fmt: skip
