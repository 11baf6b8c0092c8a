"""The examples of nodes that load their own models, on the second GPU: what each is for, and its nodes."""

from __future__ import annotations

from collections.abc import Iterator

from ui_format import Node, Recipe, Wire

SELF_LOADING = ("AILab_QwenVL", "RMBG", "RIFE VFI", "VibeVoiceTTS")
"""The nodes that get a variant in these examples."""
MADE = "The node is made when the workflow is opened. Choose device… in the menu of the pack's own node makes it, too."


def _qwenvl() -> Iterator[Recipe]:
    seen = {"image": Wire("image"), "model_name": "Qwen3-VL-4B-Instruct", "device": "cuda:1"}
    yield Recipe(
        "A picture described by QwenVL on the second card",
        f"Needs ComfyUI-QwenVL. The language model stays on cuda:1, while cuda:0 is free for pictures. {MADE}\n\n"
        "Change the device, the model and the picture.",
        {
            "image": Node("LoadImage", {"image": "example.png"}),
            "describe": Node("AILab_QwenVLMultiGPU", seen, "QwenVL on cuda:1"),
            "show": Node("PreviewAny", {"source": Wire("describe")}),
        },
        "ComfyUI-QwenVL",
    )


def _rmbg() -> Iterator[Recipe]:
    given = {"image": Wire("image"), "model": "RMBG-2.0", "device": "cuda:1"}
    yield Recipe(
        "Background removed on the second card",
        f"Needs ComfyUI-RMBG. Its model is loaded and computes on cuda:1. {MADE}\n\n"
        "Change the device, the model and the picture. FaceSegment, ClothesSegment and the pack's other nodes work "
        "in the same way.",
        {
            "image": Node("LoadImage", {"image": "example.png"}),
            "remove": Node("RMBGMultiGPU", given, "RMBG on cuda:1"),
            "save": Node("SaveImage", {"images": Wire("remove"), "filename_prefix": "multigpu"}),
        },
        "ComfyUI-RMBG",
    )


def _frame_interpolation() -> Iterator[Recipe]:
    yield Recipe(
        "Frames interpolated on the second card",
        f"Needs ComfyUI-Frame-Interpolation. RIFE doubles the frame rate on cuda:1, while cuda:0 is free. "
        f"{MADE}\n\n"
        "Change the device, the video, multiplier and with it fps.",
        {
            "video": Node("LoadVideo", {"file": "example.mp4"}),
            "frames": Node("GetVideoComponents", {"video": Wire("video")}),
            "rife": Node("RIFE VFIMultiGPU", {"frames": Wire("frames"), "device": "cuda:1"}, "RIFE on cuda:1"),
            "join": Node("CreateVideo", {"images": Wire("rife"), "audio": Wire("frames", 1), "fps": 48.0}),
            "save": Node("SaveVideo", {"video": Wire("join"), "filename_prefix": "multigpu"}),
        },
        "ComfyUI-Frame-Interpolation",
    )


def _vibevoice() -> Iterator[Recipe]:
    said = {"text": "Speaker 1: The lighthouse keeper is awake.", "speaker_1_voice": Wire("voice")}
    yield Recipe(
        "Speech by VibeVoice on the second card",
        f"Needs ComfyUI-VibeVoice. The model is loaded on cuda:1, and the panel shows it there. {MADE}\n\n"
        "Change the device, the text and the voice. The nodes of other packs for speech work in the same way.",
        {
            "voice": Node("LoadAudio", {"audio": "example.mp3"}),
            "speak": Node("VibeVoiceTTSMultiGPU", {**said, "device": "cuda:1"}, "VibeVoice on cuda:1"),
            "save": Node("SaveAudio", {"audio": Wire("speak"), "filename_prefix": "audio/multigpu"}),
        },
        "ComfyUI-VibeVoice",
    )


ANY_NODE = (*_qwenvl(), *_rmbg(), *_frame_interpolation(), *_vibevoice())
