"""Computes in another process, and in threads: TTS runtimes, loaders of weights."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Thread

import comfy.model_management as mm
import torch

POOL = ThreadPoolExecutor(1)
SHOW = "import os; print(os.environ.get('ASCEND_RT_VISIBLE_DEVICES', 'all'))"


def where():
    return f"{mm.get_torch_device()} {torch.ones(1, device='npu').device}"


class Run:
    RETURN_TYPES = ("STRING",)
    FUNCTION = "run"
    CATEGORY = "self loading"
    INPUT_TYPES = classmethod(lambda cls: {"required": {"image": ("IMAGE",)}})

    def run(self, image):
        child = subprocess.run([sys.executable, "-S", "-c", SHOW], capture_output=True, text=True, check=True)
        given = {**os.environ, "ASCEND_RT_VISIBLE_DEVICES": "7"}
        own = subprocess.run([sys.executable, "-S", "-c", SHOW], env=given, capture_output=True, text=True, check=True)
        found = []
        thread = Thread(target=lambda: found.append(where()))
        thread.start()
        thread.join()
        pooled = POOL.submit(where).result()
        return (f"{child.stdout.strip()} | {own.stdout.strip()} | {found[0]} | {pooled}",)


class Show:
    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "show"
    CATEGORY = "self loading"
    INPUT_TYPES = classmethod(lambda cls: {"required": {"text": ("STRING", {"forceInput": True})}})

    def show(self, text):
        return {"ui": {"text": [text]}}
