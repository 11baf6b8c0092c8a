"""Memory of the compute device that an `auto` plan leaves for inference where no ComfyUI runs that could be asked.

ComfyUI keeps `minimum_inference_memory()` free while it loads a model: 0.8 GiB, and 0.4 GiB for other programs (0.6 GiB
on Windows, and 0.1 GiB more on a GPU with over 15 GiB; `EXTRA_RESERVED_VRAM` of comfy/model_management.py, 0.30).
"""

from __future__ import annotations

import sys

MIB = 1 << 20
LEAST_FOR_INFERENCE = int(0.8 * 1024 * MIB)
FOR_OTHER_PROGRAMS = 400 * MIB
FOR_OTHER_PROGRAMS_ON_WINDOWS = 600 * MIB
MORE_ON_LARGE_GPUS = 100 * MIB
LARGE_GPU = 15 * 1024 * MIB


def inference_reserve(total_bytes: int) -> int:
    """Bytes that stay free on a compute device with `total_bytes` of memory."""
    reserve = FOR_OTHER_PROGRAMS
    if sys.platform == "win32":
        reserve = FOR_OTHER_PROGRAMS_ON_WINDOWS + (MORE_ON_LARGE_GPUS if total_bytes > LARGE_GPU else 0)
    return LEAST_FOR_INFERENCE + reserve
