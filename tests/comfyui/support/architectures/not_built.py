"""The entries of `comfy.supported_models` that are not among the architectures, and why."""

from __future__ import annotations

NOT_BUILT = {
    "RT_DETR_v4": "a detector of 0.1 GB, which fits every GPU. Two of its weights have two names, and files hold both",
}
