"""The examples on ComfyUI's own loaders: what each is for, and its nodes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from graphs import PROMPT, flux, hunyuan, ltx, qwen, sampler, sdxl, split, wan
from ui_format import Node, Recipe, Wire

STRINGS = (
    "Shares may be in percent (cuda:0,50%;cuda:1,50%), in bytes (cuda:0,6gb;cuda:1,*), as fractions of each card's "
    "memory (cuda:0,0.5;cpu,*), or auto. The log shows what lies where after loading, and what a step is predicted to "
    "take."
)


def _flux_recipes() -> Iterator[Recipe]:
    file = "flux1-dev.safetensors"
    yield Recipe(
        "Flux split over two cards",
        "One Flux model, half of it on each of two cards; cuda:0 computes and keeps its memory for the picture.\n\n"
        f"Change expert_mode_allocations to your cards. {STRINGS}",
        flux(split(file, expert_mode_allocations="cuda:0,50%;cuda:1,50%")),
    )
    yield Recipe(
        "Flux on one small card",
        "Flux on a card of 8 GB: 19 GB of its weights wait in system memory and are copied ahead of their turn, and "
        "over 2 GB of the card are left for the picture.\n\nChange virtual_vram_gb to less on a larger card, or write "
        "auto into expert_mode_allocations.",
        flux(split(file, virtual_vram_gb=19.0, donor_device="cpu"), "cpu", "cuda:0"),
    )
    yield Recipe(
        "Flux split by bytes",
        "6 GB of the weights on cuda:0, 10 GB on cuda:1, and what is left in system memory.\n\n"
        f"Change the sizes to your cards; * takes what is left. {STRINGS}",
        flux(split(file, expert_mode_allocations="cuda:0,6gb;cuda:1,10gb;cpu,*")),
    )
    yield Recipe(
        "Flux split by fractions of each card",
        "Weights in two fifths of cuda:0's memory and four fifths of cuda:1's, and what is left in system memory: the "
        f"same string serves cards of any size.\n\nChange the fractions. {STRINGS}",
        flux(split(file, expert_mode_allocations="cuda:0,0.4;cuda:1,0.8;cpu,*")),
    )
    yield Recipe(
        "Flux placed automatically",
        "What fits goes on cuda:0, the rest where it is fetched from fastest, by the speeds that `multigpu profile` "
        f"measured.\n\nChange nothing, or write the string that the log shows to pin the plan. {STRINGS}",
        flux(split(file, expert_mode_allocations="auto")),
    )
    yield Recipe(
        "Flux computed by both cards",
        "Each card computes the blocks that it stores: activations travel, weights stay. With two pictures in a batch, "
        "or cfg above 1, both cards work at once.\n\nChange the shares to your cards' speeds: two equal ones take 50% "
        "each.",
        flux(
            split(file, expert_mode_allocations="cuda:0,50%;cuda:1,50%", strategy="relay"),
            latent=Node("EmptySD3LatentImage", {"width": 1024, "height": 1024, "batch_size": 2}),
        ),
    )
    yield Recipe(
        "Flux with text encoders on the cpu",
        "T5 stays in system memory and computes there: slow once for each new text, and the card is the model's alone."
        "\n\nChange the devices of the three loaders.",
        flux(Node("UNETLoaderMultiGPU", {"unet_name": file, "device": "cuda:0"}), "cpu", "cuda:0"),
    )
    clip = {"clip_name1": "clip_l.safetensors", "clip_name2": "t5xxl_fp16.safetensors", "type": "flux"}
    yield Recipe(
        "Flux kept loaded while the text changes",
        "The diffusion model has keep_loaded on: it stays where it is when all models are unloaded, and the next "
        "picture starts at once. "
        "The text encoders have eject_models on: what is not kept leaves their card before they come."
        "\n\nChange keep_loaded and eject_models on the two split nodes to see the difference in the log.",
        flux(
            split(file, expert_mode_allocations="cuda:0,50%;cuda:1,50%", keep_loaded=True),
            clip=Node(
                "DualCLIPLoaderDisTorch2MultiGPU",
                {**clip, "device": "cuda:0", "virtual_vram_gb": 4.0, "donor_device": "cpu", "eject_models": True},
                "Text encoders that make room",
            ),
        ),
    )
    lora = Node("LoraLoaderModelOnly", {"model": Wire("model"), "lora_name": "lora.safetensors", "strength_model": 0.8})
    positive, negative = Wire("guidance"), Wire("negative")
    yield Recipe(
        "Flux split, with a LoRA",
        "The LoRA is applied on the compute device at full precision before the weights go to their places, so that "
        "the picture is the one "
        "of a single large card.\n\nChange lora_name and its strength: only its weights are patched "
        "again.",
        flux(
            split(file, expert_mode_allocations="cuda:0,50%;cpu,50%", high_precision_loras=True),
            lora=lora,
            sample=sampler(Wire("lora"), positive, negative, Wire("latent"), cfg=1.0),
        ),
    )
    hint = {"positive": positive, "negative": negative, "control_net": Wire("control"), "image": Wire("image")}
    yield Recipe(
        "Flux with its ControlNet on the second card",
        "The ControlNet computes on cuda:1 for a model on cuda:0: hint and prompt go there, residuals come back.\n\n"
        "Change the device of the ControlNet's loader, its file, and the picture that steers.",
        flux(
            split(file, virtual_vram_gb=12.0, donor_device="cpu"),
            control=Node(
                "ControlNetLoaderMultiGPU", {"control_net_name": "flux-canny.safetensors", "device": "cuda:1"}
            ),
            image=Node("LoadImage", {"image": "example.png"}),
            apply=Node("ControlNetApplyAdvanced", {**hint, "strength": 0.7}),
            sample=sampler(Wire("model"), Wire("apply"), Wire("apply", 1), Wire("latent"), cfg=1.0),
        ),
    )
    checkpoint = {"ckpt_name": "flux1-dev-fp8.safetensors"}
    parts = {"unet_device": "cuda:0", "clip_device": "cpu", "vae_device": "cuda:1"}
    loader = Node("CheckpointLoaderAdvancedMultiGPU", {**checkpoint, **parts}, "Each part on a device of its own")
    graph = flux(loader, prompt=Node("CLIPTextEncode", {"clip": Wire("model", 1), "text": PROMPT}))
    graph["decode"] = Node("VAEDecode", {"samples": Wire("sample"), "vae": Wire("model", 2)})
    yield Recipe(
        "A checkpoint with its parts on three devices",
        "One file, three devices: the model on cuda:0, the text encoders on the cpu, the VAE on cuda:1.\n\n"
        "Change the three devices.",
        {name: node for name, node in graph.items() if name not in ("clip", "vae")},
    )


def _sdxl_recipes() -> Iterator[Recipe]:
    base = {"ckpt_name": "sd_xl_base_1.0.safetensors"}
    place = {"compute_device": "cuda:0", "virtual_vram_gb": 4.0, "donor_device": "cpu"}
    yield Recipe(
        "SDXL on one small card",
        "4 GB of the checkpoint's diffusion model wait in system memory: enough for a card of 6 GB.\n\n"
        "Change virtual_vram_gb to what your card lacks.",
        sdxl(Node("CheckpointLoaderSimpleDisTorch2MultiGPU", {**base, **place})),
    )
    stages: dict[str, Any] = {"steps": 25, "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal"}
    first = {
        "model": Wire("model"),
        "positive": Wire("prompt"),
        "negative": Wire("negative"),
        "latent_image": Wire("latent"),
    }
    second = {"model": Wire("refiner"), "positive": Wire("refined"), "negative": Wire("unrefined")}
    text = {"clip": Wire("refiner", 1)}
    refiner = {"ckpt_name": "sd_xl_refiner_1.0.safetensors", "device": "cuda:1"}
    yield Recipe(
        "SDXL base and refiner on two cards",
        "Both models stay loaded, each on a card of its own: no reload between the two stages.\n\n"
        "Change the devices of the two loaders.",
        sdxl(
            Node("CheckpointLoaderSimpleMultiGPU", {**base, "device": "cuda:0"}, "Base on the first card"),
            refiner=Node("CheckpointLoaderSimpleMultiGPU", refiner, "Refiner on the second card"),
            refined=Node("CLIPTextEncodeSDXLRefiner", {**text, "text": PROMPT}),
            unrefined=Node("CLIPTextEncodeSDXLRefiner", {**text, "text": "blurry"}),
            sample=Node(
                "KSamplerAdvanced", {**stages, **first, "end_at_step": 20, "return_with_leftover_noise": "enable"}
            ),
            refine=Node(
                "KSamplerAdvanced",
                {**stages, **second, "latent_image": Wire("sample"), "add_noise": "disable", "start_at_step": 20},
            ),
            decode=Node("VAEDecode", {"samples": Wire("refine"), "vae": Wire("refiner", 2)}),
        ),
    )
    yield Recipe(
        "Upscaling on the second card",
        "The upscaler works on cuda:1, while cuda:0 keeps its model.\n\nChange the file, the device and the picture.",
        {
            "image": Node("LoadImage", {"image": "example.png"}),
            "model": Node("UpscaleModelLoaderMultiGPU", {"model_name": "4x_upscaler.safetensors", "device": "cuda:1"}),
            "upscale": Node("ImageUpscaleWithModel", {"upscale_model": Wire("model"), "image": Wire("image")}),
            "save": Node("SaveImage", {"images": Wire("upscale"), "filename_prefix": "multigpu"}),
        },
    )


def _qwen_recipes() -> Iterator[Recipe]:
    file = "qwen_image_fp8_e4m3fn.safetensors"
    yield Recipe(
        "Qwen-Image on one small card",
        "20 GB of weights in fp8, 14 of them in system memory; they travel as they are stored. The text encoder "
        "computes on the cpu.\n\nChange virtual_vram_gb to what your card lacks.",
        qwen(split(file, virtual_vram_gb=14.0, donor_device="cpu"), "cpu"),
    )
    yield Recipe(
        "Qwen-Image over two cards",
        "Half of the model on each card, the text encoder on the second.\n\n"
        f"Change the shares to your cards. {STRINGS}",
        qwen(split(file, expert_mode_allocations="cuda:0,50%;cuda:1,50%"), "cuda:1"),
    )


def _video_recipes() -> Iterator[Recipe]:
    high, low = "wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors", "wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors"
    yield Recipe(
        "Wan 2.2 with one expert on each card",
        "The two models of Wan 2.2 on two cards: none is unloaded when the other's steps begin.\n\n"
        "Change the devices of the two loaders.",
        wan(
            Node("UNETLoaderMultiGPU", {"unet_name": high, "device": "cuda:0"}),
            Node("UNETLoaderMultiGPU", {"unet_name": low, "device": "cuda:1"}),
            "cpu",
        ),
    )
    small = {"virtual_vram_gb": 10.0, "donor_device": "cpu"}
    yield Recipe(
        "Wan 2.2 on one small card",
        "Of each expert 10 GB wait in system memory, so that the card has room for long videos.\n\n"
        "Change virtual_vram_gb on both loaders, and length for longer videos.",
        wan(split(high, **small), split(low, **small), "cpu"),
    )
    file, halves = "hunyuan_video_t2v_720p_bf16.safetensors", {"expert_mode_allocations": "cuda:0,50%;cuda:1,50%"}
    yield Recipe(
        "HunyuanVideo over two cards",
        "Half of the model on each card; text encoders and VAE on the second.\n\n"
        f"Change the shares to your cards. {STRINGS}",
        hunyuan(split(file, **halves), "cuda:1", "cuda:1"),
    )
    yield Recipe(
        "HunyuanVideo on one small card",
        "18 of the model's 26 GB wait in system memory, the text encoders compute on the cpu, and the VAE decodes in "
        "tiles.\n\nChange virtual_vram_gb to what your card lacks, and the tile's size if decoding needs too much.",
        hunyuan(split(file, virtual_vram_gb=18.0, donor_device="cpu"), "cpu", "cuda:0"),
    )
    yield Recipe(
        "LTX-Video on one small card",
        "3 GB of the checkpoint wait in system memory, T5 computes on the cpu.\n\n"
        "Change virtual_vram_gb to what your card lacks.",
        ltx("cpu", virtual_vram_gb=3.0),
    )
    yield Recipe(
        "LTX-Video over two cards",
        "Half of the checkpoint's model on each card, T5 on the second: the first card has room for longer videos.\n\n"
        f"Change the shares to your cards, and length for longer videos. {STRINGS}",
        ltx("cuda:1", **halves),
    )


RECIPES = (*_flux_recipes(), *_sdxl_recipes(), *_qwen_recipes(), *_video_recipes())
