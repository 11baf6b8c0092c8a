"""What of a text encoder and of a VAE is served from another machine; anything else of them is refused."""

from __future__ import annotations

TEXT_ENCODER_METHODS = frozenset({"tokenize", "encode", "encode_from_tokens", "encode_from_tokens_scheduled"})
VAE_METHODS = frozenset(
    {
        "decode",
        "decode_tiled",
        "encode",
        "encode_tiled",
        "spacial_compression_decode",  # ComfyUI's spelling
        "spacial_compression_encode",
        "temporal_compression_decode",
    }
)
VAE_ATTRIBUTES = (
    "audio_sample_rate",
    "crop_input",
    "downscale_ratio",
    "extra_1d_channel",
    "latent_channels",
    "latent_dim",
    "not_video",
    "output_channels",
    "upscale_ratio",
)
"""Those whose value is a number; a VAE in which it is not does not offer it."""
