"""Made-up bodies for our HTTP routes, handled as the routes do, inside a real ComfyUI."""

from __future__ import annotations

import importlib
import json
import random
from collections.abc import Callable
from typing import Any

from inside_comfyui import MODEL, enter_comfyui

VALUES = [None, True, 0, -1, 1e308, "", "cpu", "npu:0", "npu:1", "cuda:9", "auto", "fp8_e4m3fn", "interleave", [], {}]
VALUES += [
    "../../etc/passwd",
    "/etc/passwd",
    "C:\\x",
    "flux.safetensors\x00",
    MODEL["unet_name"],
    "🦆" * 2000,
    [[]] * 9,
]


def http_case(shares: Callable[[random.Random], str]) -> Callable[[random.Random], object]:
    """A case for bodies of `POST /multigpu/plan` and those that name a model; `shares` makes allocation strings up."""
    inside = enter_comfyui()
    inside.start()
    context = inside.framework.context
    routes = importlib.import_module("multigpu.multigpu_core.comfy.page.routes")
    preview = importlib.import_module("multigpu.multigpu_core.comfy.page.allocation_preview")

    def case(chance: random.Random) -> object:
        if chance.random() < 0.2:
            wanted = routes.KeepRequest.model_validate_json(_damaged(chance, {"key": 1, "keep_loaded": True}))
            return wanted.key
        wanted = preview.PreviewRequest.model_validate_json(_damaged(chance, _body(chance, shares)))
        answer = preview.preview(wanted, context.host, context.plan)
        assert answer["fits"] or answer["error"]["message"]
        return json.dumps(answer, allow_nan=False)

    return case


def _body(chance: random.Random, shares: Callable[[random.Random], str]) -> dict[str, Any]:
    return {
        "files": [{"input": "unet_name", "name": MODEL["unet_name"]}] * chance.choice([1, 1, 1, 2]),
        "part": chance.choice([None, None, "diffusion_model", "vae", "text_encoder"]),
        "compute_device": chance.choice(["npu:0", "npu:1", "cpu"]),
        "virtual_vram_gb": chance.choice([0.0, 0.001, 4.0, 1e300]),
        "donor_device": chance.choice(["cpu", "npu:1"]),
        "expert": shares(chance).replace("cuda", "npu") if chance.random() < 0.7 else "",
        "strategy": chance.choice(["interleave", "contiguous", "relay"]),
        "weight_dtype": chance.choice(["default", "fp8_e4m3fn"]),
    }


def _damaged(chance: random.Random, body: dict[str, Any]) -> bytes:
    """Often as it is; else with another value, without a field, with one more, or with broken JSON."""
    way = chance.randrange(8)
    if way == 0:
        body[chance.choice(list(body))] = chance.choice(VALUES)
    elif way == 1:
        body["files"] = [{"input": "unet_name", "name": chance.choice(VALUES)}]
    elif way == 2:
        del body[chance.choice(list(body))]
    elif way == 3:
        body[chance.choice(["more", "__class__", ""])] = chance.choice(VALUES)
    text = json.dumps(body).encode()
    if way == 4:
        at = chance.randrange(len(text))
        text = text[:at] + chance.randbytes(chance.randrange(4)) + text[at + chance.randrange(9) :]
    return text
