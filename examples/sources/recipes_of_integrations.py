"""The examples of integrations, one for each node pack: what each is for, and its nodes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from graphs import PROMPT, SCENE, STILL, flux, sampler, sdxl, video
from ui_format import Node, Recipe, Wire


def _gguf() -> Iterator[Recipe]:
    place = {"compute_device": "cuda:0", "expert_mode_allocations": "cuda:0,50%;cuda:1,50%"}
    clip = {"clip_name1": "clip_l.safetensors", "clip_name2": "t5-v1_1-xxl-encoder-Q8_0.gguf", "type": "flux"}
    model = Node("UnetLoaderGGUFDisTorch2MultiGPU", {"unet_name": "flux1-dev-Q8_0.gguf", **place}, "The model, split")
    yield Recipe(
        "Flux GGUF split over two cards",
        "Needs ComfyUI-GGUF. Weights are stored and travel quantised; the compute device dequantises them.\n\n"
        "Change the files and the shares: percent (cuda:0,50%;cuda:1,50%), bytes (cuda:0,6gb;cuda:1,*), fractions "
        "(cuda:0,0.5;cpu,*) or auto.",
        flux(model, clip=Node("DualCLIPLoaderGGUFMultiGPU", {**clip, "device": "cuda:1"}, "Text encoders on cuda:1")),
        "ComfyUI-GGUF",
    )


def _wanvideo() -> Iterator[Recipe]:
    model = {"model": "Wan2_1-T2V-14B_fp8_e4m3fn.safetensors", "base_precision": "fp16", "compute_device": "cuda:0"}
    swap = {"block_swap_args": Wire("swap"), "load_device": "offload_device"}
    t5 = {"model_name": "umt5-xxl-enc-bf16.safetensors", "precision": "bf16", "device": "cuda:1"}
    vae = {"model_name": "Wan2_1_VAE_bf16.safetensors", "load_device": "cuda:1", "precision": "bf16"}
    texts = {"positive_prompt": SCENE, "negative_prompt": STILL}
    sample = {"model": Wire("model"), "compute_device": Wire("model", 1), "text_embeds": Wire("text")}
    decode = {"vae": Wire("vae"), "load_device": Wire("vae", 1), "samples": Wire("sample")}
    nodes = {
        "swap": Node("WanVideoBlockSwapMultiGPU", {"blocks_to_swap": 20, "swap_device": "cuda:1"}, "Blocks on cuda:1"),
        "model": Node("WanVideoModelLoaderMultiGPU", {**model, **swap}, "The model on cuda:0"),
        "t5": Node("LoadWanVideoT5TextEncoderMultiGPU", t5, "Text encoder on cuda:1"),
        "vae": Node("WanVideoVAELoaderMultiGPU", vae, "VAE on cuda:1"),
        "text": Node("WanVideoTextEncodeMultiGPU", {"t5": Wire("t5"), "load_device": Wire("t5", 1), **texts}),
        "size": Node("WanVideoEmptyEmbeds", {"width": 832, "height": 480, "num_frames": 81}),
        "sample": Node("WanVideoSamplerMultiGPU", {**sample, "image_embeds": Wire("size")}),
        "decode": Node("WanVideoDecodeMultiGPU", {**decode, "enable_vae_tiling": True}),
    }
    yield Recipe(
        "WanVideoWrapper with blocks swapped to the second card",
        "Needs ComfyUI-WanVideoWrapper. Half of the model's 40 blocks wait on cuda:1, which also encodes the text and "
        "decodes the video; cuda:0 samples. Each node's device comes from its loader by the device socket.\n\n"
        "Change blocks_to_swap to what cuda:0 lacks, and swap_device to cpu where there is one card.",
        video(nodes, Wire("decode"), 16.0),
        "ComfyUI-WanVideoWrapper",
    )


def _hunyuan() -> Iterator[Recipe]:
    file, vae = "hunyuan_video_720_fp8_e4m3fn.safetensors", "hunyuan_video_vae_bf16.safetensors"
    model = {"model": file, "base_precision": "bf16", "quantization": "fp8_e4m3fn", "attention_mode": "sdpa"}
    encoders = {
        "llm_model": "Kijai/llava-llama-3-8b-text-encoder-tokenizer",
        "clip_model": "openai/clip-vit-large-patch14",
        "precision": "fp16",
    }
    size = {"width": 512, "height": 320, "num_frames": 85}
    nodes = {
        "model": Node("HyVideoModelLoaderMultiGPU", {**model, "device": "cuda:0"}, "The model on cuda:0"),
        "vae": Node("HyVideoVAELoaderMultiGPU", {"model_name": vae, "device": "cuda:1"}, "VAE on cuda:1"),
        "encoders": Node(
            "DownloadAndLoadHyVideoTextEncoderMultiGPU", {**encoders, "device": "cuda:1"}, "Text encoders on cuda:1"
        ),
        "text": Node("HyVideoTextEncode", {"text_encoders": Wire("encoders"), "prompt": SCENE}),
        "sample": Node("HyVideoSampler", {"model": Wire("model"), "hyvid_embeds": Wire("text"), **size}),
        "decode": Node("HyVideoDecode", {"vae": Wire("vae"), "samples": Wire("sample")}),
    }
    yield Recipe(
        "HunyuanVideoWrapper over two cards",
        "Needs ComfyUI-HunyuanVideoWrapper. The model has cuda:0 to itself; text encoders and VAE work on cuda:1, "
        "where the pack's own nodes follow them.\n\n"
        "Change the devices of the three loaders. The text encoders are downloaded at first use.",
        video(nodes, Wire("decode"), 24.0),
        "ComfyUI-HunyuanVideoWrapper",
    )


def _ltx() -> Iterator[Recipe]:
    file, gemma = "ltx-2-19b-distilled.safetensors", "model-00001-of-00005.safetensors"
    place = {"compute_device": "cuda:0", "expert_mode_allocations": "cuda:0,50%;cuda:1,50%"}
    clip = {"gemma_path": gemma, "ltxv_path": file, "device": "cuda:1"}
    rated = {"positive": Wire("prompt"), "negative": Wire("negative"), "frame_rate": 25.0}
    both = {"video_latent": Wire("latent"), "audio_latent": Wire("silence")}
    silence = {"audio_vae": Wire("audio vae"), "frames_number": 121, "frame_rate": 25.0}
    made = {"images": Wire("decode"), "audio": Wire("sound"), "fps": 25.0}
    nodes = {
        "model": Node("LowVRAMCheckpointLoaderDisTorch2MultiGPU", {"ckpt_name": file, **place}, "The model, split"),
        "audio vae": Node("LowVRAMAudioVAELoaderMultiGPU", {"ckpt_name": file, "device": "cuda:1"}, "Audio on cuda:1"),
        "clip": Node("LTXVGemmaCLIPModelLoaderMultiGPU", clip, "Text encoder on cuda:1"),
        "prompt": Node("CLIPTextEncode", {"clip": Wire("clip"), "text": f"{SCENE}, the sound of the sea"}),
        "negative": Node("CLIPTextEncode", {"clip": Wire("clip"), "text": STILL}),
        "rate": Node("LTXVConditioning", rated),
        "latent": Node("EmptyLTXVLatentVideo", {"width": 768, "height": 512, "length": 121}),
        "silence": Node("LTXVEmptyLatentAudio", silence),
        "both": Node("LTXVConcatAVLatent", both),
        "sample": sampler(Wire("model"), Wire("rate"), Wire("rate", 1), Wire("both"), cfg=1.0, steps=8),
        "parts": Node("LTXVSeparateAVLatent", {"av_latent": Wire("sample")}),
        "decode": Node("VAEDecodeTiled", {"samples": Wire("parts"), "vae": Wire("model", 2)}),
        "sound": Node("LTXVAudioVAEDecode", {"samples": Wire("parts", 1), "audio_vae": Wire("audio vae")}),
        "video": Node("CreateVideo", made),
        "save": Node("SaveVideo", {"video": Wire("video"), "filename_prefix": "multigpu"}),
    }
    yield Recipe(
        "LTX-2 over two cards with the LTXVideo pack",
        "Needs ComfyUI-LTXVideo. Half of the model on each card; the text encoder and the sound are cuda:1's.\n\n"
        "Change the shares to your cards, the file of Gemma to where yours lies below text_encoders, and length and "
        "frames_number together.",
        nodes,
        "ComfyUI-LTXVideo",
    )


def _nf4() -> Iterator[Recipe]:
    checkpoint = {"ckpt_name": "flux1-dev-bnb-nf4-v2.safetensors", "device": "cuda:1"}
    graph = flux(
        Node("CheckpointLoaderNF4MultiGPU", checkpoint, "The checkpoint on cuda:1"),
        prompt=Node("CLIPTextEncode", {"clip": Wire("model", 1), "text": PROMPT}),
        decode=Node("VAEDecode", {"samples": Wire("sample"), "vae": Wire("model", 2)}),
    )
    yield Recipe(
        "Flux in NF4 on the second card",
        "Needs ComfyUI_bitsandbytes_NF4 and an NVIDIA card. The model, in four bits a weight, is on cuda:1, so that "
        "cuda:0 is free for other models. Weights of four bits are not split.\n\nChange the device and the file.",
        {name: node for name, node in graph.items() if name not in ("clip", "vae")},
        "ComfyUI_bitsandbytes_NF4",
    )


def _pulid() -> Iterator[Recipe]:
    checkpoint = {"ckpt_name": "sd_xl_base_1.0.safetensors", "device": "cuda:1"}
    face = {"provider": "CUDA", "device": "cuda:1"}
    parts = {"pulid": Wire("pulid"), "eva_clip": Wire("eva"), "face_analysis": Wire("face"), "image": Wire("image")}
    pulid = {"pulid_file": "ip-adapter_pulid_sdxl_fp16.safetensors", "device": "cuda:1"}
    yield Recipe(
        "SDXL and PuLID on the second card",
        "Needs PuLID_ComfyUI. Model, identity and face analysis on cuda:1; cuda:0 stays free.\n\n"
        "Change the device on all four loaders together: PuLID computes where its MODEL does. provider CPU keeps "
        "InsightFace off the cards. EVA CLIP is downloaded at first use.",
        sdxl(
            Node("CheckpointLoaderSimpleMultiGPU", checkpoint, "The model on cuda:1"),
            pulid=Node("PulidModelLoaderMultiGPU", pulid),
            eva=Node("PulidEvaClipLoaderMultiGPU", {"device": "cuda:1"}),
            face=Node("PulidInsightFaceLoaderMultiGPU", face),
            image=Node("LoadImage", {"image": "example.png"}, "The face"),
            apply=Node("ApplyPulid", {"model": Wire("model"), **parts, "weight": 0.8}),
            sample=sampler(Wire("apply"), Wire("prompt"), Wire("negative"), Wire("latent"), cfg=6.0),
        ),
        "PuLID_ComfyUI",
    )


def _ipadapter() -> Iterator[Recipe]:
    checkpoint = {"ckpt_name": "sd_xl_base_1.0.safetensors", "device": "cuda:1"}
    vision = {"clip_name": "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors", "device": "cuda:0"}
    parts = {"ipadapter": Wire("adapter"), "image": Wire("image"), "clip_vision": Wire("vision")}
    yield Recipe(
        "SDXL and an IP-adapter on the second card",
        "Needs ComfyUI_IPAdapter_plus. The model is on cuda:1, and the pack's adapter follows it there; CLIP vision "
        "looks at the picture on cuda:0.\n\n"
        "Change the devices of the two loaders as you like: the adapter goes where its MODEL is, split or whole.",
        sdxl(
            Node("CheckpointLoaderSimpleMultiGPU", checkpoint, "The model on cuda:1"),
            adapter=Node("IPAdapterModelLoader", {"ipadapter_file": "ip-adapter-plus_sdxl_vit-h.safetensors"}),
            vision=Node("CLIPVisionLoaderMultiGPU", vision, "CLIP vision on cuda:0"),
            image=Node("LoadImage", {"image": "example.png"}, "The picture to go by"),
            apply=Node("IPAdapterAdvanced", {"model": Wire("model"), **parts, "weight": 0.8}),
            sample=sampler(Wire("apply"), Wire("prompt"), Wire("negative"), Wire("latent"), cfg=6.0),
        ),
        "ComfyUI_IPAdapter_plus",
    )


def _florence2() -> Iterator[Recipe]:
    model = {"model": "microsoft/Florence-2-base", "device": "cuda:1", "offload_device": "cpu"}
    run = {"image": Wire("image"), "florence2_model": Wire("florence"), "task": "detailed_caption"}
    checkpoint = {"ckpt_name": "sd_xl_base_1.0.safetensors", "device": "cuda:0"}
    yield Recipe(
        "Florence-2 on the second card writes the prompt",
        "Needs ComfyUI-Florence2. Florence-2 describes a picture on cuda:1 and waits in system memory; SDXL paints "
        "what it says on cuda:0 and is not unloaded for it.\n\n"
        "Change the picture, the task, and device and offload_device of Florence-2. It is downloaded at first use.",
        sdxl(
            Node("CheckpointLoaderSimpleMultiGPU", checkpoint, "SDXL on cuda:0"),
            florence=Node("DownloadAndLoadFlorence2ModelMultiGPU", model, "Florence-2 on cuda:1"),
            image=Node("LoadImage", {"image": "example.png"}),
            caption=Node("Florence2Run", {**run, "keep_model_loaded": True}),
            show=Node("PreviewAny", {"source": Wire("caption", 2)}, "What it says"),
            prompt=Node("CLIPTextEncode", {"clip": Wire("model", 1), "text": Wire("caption", 2)}),
        ),
        "ComfyUI-Florence2",
    )


def _mmaudio() -> Iterator[Recipe]:
    features = {
        "vae_model": "mmaudio_vae_44k_fp16.safetensors",
        "synchformer_model": "mmaudio_synchformer_fp16.safetensors",
        "clip_model": "apple_DFN5B-CLIP-ViT-H-14-384_fp16.safetensors",
        "device": "cuda:1",
    }
    model = {"mmaudio_model": "mmaudio_large_44k_v2_fp16.safetensors", "device": "cuda:1"}
    parts: dict[str, Any] = {"mmaudio_model": Wire("model"), "feature_utils": Wire("features")}
    said = {"prompt": "waves, wind, gulls", "negative_prompt": "music"}
    made = {"images": Wire("frames"), "audio": Wire("sample"), "fps": Wire("frames", 2)}
    yield Recipe(
        "MMAudio on the second card",
        "Needs ComfyUI-MMAudio. The sound for a video is made on cuda:1, while cuda:0 keeps the video model. The "
        "pack's own sampler follows the model's device.\n\n"
        "Change the device of both loaders, the video, and duration to the video's seconds.",
        {
            "model": Node("MMAudioModelLoaderMultiGPU", model, "The model on cuda:1"),
            "features": Node("MMAudioFeatureUtilsLoaderMultiGPU", features, "Its features on cuda:1"),
            "video": Node("LoadVideo", {"file": "example.mp4"}),
            "frames": Node("GetVideoComponents", {"video": Wire("video")}),
            "sample": Node("MMAudioSampler", {**parts, **said, "images": Wire("frames"), "duration": 8.0}),
            "join": Node("CreateVideo", made),
            "save": Node("SaveVideo", {"video": Wire("join"), "filename_prefix": "multigpu"}),
        },
        "ComfyUI-MMAudio",
    )


def _xflux() -> Iterator[Recipe]:
    control = {"model_name": "flux-dev-fp8", "controlnet_path": "flux-canny-controlnet-v3.safetensors"}
    sample: dict[str, Any] = {"model": Wire("model"), "conditioning": Wire("prompt"), "neg_conditioning": Wire("other")}
    more = {"latent_image": Wire("latent"), "controlnet_condition": Wire("apply"), "steps": 25, "true_gs": 3.5}
    text: dict[str, Any] = {"clip": Wire("clip"), "guidance": 4.0}
    graph = flux(
        Node("UNETLoaderMultiGPU", {"unet_name": "flux1-dev-fp8.safetensors", "device": "cuda:0"}, "Flux on cuda:0"),
        prompt=Node("CLIPTextEncodeFlux", {**text, "clip_l": PROMPT, "t5xxl": PROMPT}),
        other=Node("CLIPTextEncodeFlux", {**text, "clip_l": "blurry", "t5xxl": "blurry"}),
        control=Node("LoadFluxControlNetMultiGPU", {**control, "device": "cuda:0"}, "ControlNet on cuda:0"),
        image=Node("LoadImage", {"image": "example.png"}),
        edges=Node("Canny", {"image": Wire("image")}),
        apply=Node("ApplyFluxControlNet", {"controlnet": Wire("control"), "image": Wire("edges"), "strength": 0.7}),
        sample=Node("XlabsSampler", {**sample, **more, "timestep_to_start_cfg": 1}),
    )
    yield Recipe(
        "Flux with an XLabs ControlNet",
        "Needs x-flux-comfyui. Flux and its ControlNet on cuda:0, text encoders and VAE on cuda:1. The pack's sampler "
        "moves the whole model, so it takes none that is split.\n\n"
        "Change the devices: the ControlNet's is always the model's own. Change the file and the picture that steers.",
        {name: node for name, node in graph.items() if name not in ("guidance", "negative")},
        "x-flux-comfyui",
    )


INTEGRATIONS = (
    *_gguf(), *_wanvideo(), *_hunyuan(), *_ltx(), *_nf4(), *_pulid(), *_ipadapter(), *_florence2(), *_mmaudio(),
    *_xflux(),
)  # fmt: skip
