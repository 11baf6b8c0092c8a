"""After a call on a chosen device, also after one that failed, nothing of it is left."""

from __future__ import annotations

import importlib
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from multigpu.multigpu_core.provisioning.in_process import finished

from .conftest import WrittenPack

Write = Callable[..., WrittenPack]
WATCHED = (
    (threading.Thread, "start"),
    (ThreadPoolExecutor, "submit"),
    (subprocess.Popen, "__init__"),
    (torch.nn.Module, "to"),
    (torch.nn.Module, "cuda"),
    (torch, "load"),
    (torch.jit, "load"),
)


def _state(pack: WrittenPack) -> dict[str, Any]:
    mm = importlib.import_module("comfy.model_management")
    samplers = importlib.import_module("comfy.samplers")
    watched = (*WATCHED, (mm, "load_models_gpu"), (samplers.CFGGuider, "sample"))
    return {
        **{f"{owner.__name__}.{name}": vars(owner)[name] for owner, name in watched},
        "current device": torch.npu.current_device(),  # type: ignore[attr-defined]
        "ComfyUI's device": mm.get_torch_device(),
        "finders": list(sys.meta_path),
        "globals": {name: value for name, value in pack.variables.items() if name.isupper()},
    }


SOURCE = """
DEVICE = mm.get_torch_device()
NAME = "npu:0"
MODELS = {}
LAZY = None
def run(fails):
    global LAZY
    LAZY = mm.get_torch_device()
    torch.npu.set_device(2)
    assert str(DEVICE) == NAME == str(LAZY) == "npu:1", (DEVICE, NAME, LAZY)
    MODELS["a"] = torch.nn.Linear(2, 2).to(DEVICE)
    if fails:
        raise ValueError("its own")
    return str(MODELS["a"].weight.device)
"""


@pytest.mark.parametrize("fails", [False, True])
def test_a_call_leaves_every_function_and_global_as_it_was(write_pack: Write, fails: bool) -> None:
    pack = write_pack(SOURCE)
    before = _state(pack)
    if fails:
        with pytest.raises(ValueError, match="its own"):
            pack.on("npu:1", fails=True)
    else:
        assert pack.on("npu:1", fails=False) == "npu:1"
    assert _state(pack) == before
    assert pack.variables["MODELS"] == {} and pack.variables["LAZY"] is None


def test_what_a_pack_wraps_during_a_call_stays_wrapped(write_pack: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.jit, "load", torch.jit.load)  # put back at the end of the test
    pack = write_pack(
        "def run():\n"
        "    former = torch.jit.load\n"
        "    torch.jit.load = lambda *a, **k: former(*a, **k)\n"
        "    return 'done'\n"
    )
    pack.on("npu:1")
    assert torch.jit.load.__module__ == pack.variables["__name__"]


def test_a_thread_pool_serves_plain_nodes_at_home_after_a_call_has_started_its_thread(write_pack: Write) -> None:
    pack = write_pack(
        "from concurrent.futures import ThreadPoolExecutor\n"
        "POOL = ThreadPoolExecutor(1)\n"
        "def run():\n"
        "    return POOL.submit(lambda: f\"{mm.get_torch_device()} {torch.ones(1, device='npu').device}\").result()\n"
    )
    assert pack.on("npu:1") == "npu:1 npu:1"
    assert pack.plain() == "npu:0 npu:0"


def test_nested_and_concurrent_calls_each_see_their_own_device(write_pack: Write) -> None:
    pack = write_pack(
        "GATE = None\n"
        "def run(nested=None):\n"
        "    first = str(mm.get_torch_device())\n"
        "    inner = nested() if nested else ''\n"
        "    return f'{first} {inner} {mm.get_torch_device()}'\n"
    )
    variant = pack.any_node.choice_for("Written").node_id
    node = importlib.import_module("nodes").NODE_CLASS_MAPPINGS[variant]

    def inner() -> str:
        return str(finished(node().load(device="npu:2"))[0])

    assert pack.on("npu:1", nested=inner) == "npu:1 npu:2  npu:2 npu:1"


def test_a_model_in_a_class_attribute_or_a_manager_object_is_kept_for_each_device(write_pack: Write) -> None:
    pack = write_pack(
        "class Holder:\n"
        "    model = None\n"
        "class Manager:\n"
        "    def __init__(self):\n"
        "        self.cache = {}\n"
        "        self.last = None\n"
        "MANAGER = Manager()\n"
        "COUNT = [0]\n"
        "def build():\n"
        "    COUNT[0] += 1\n"
        "    return torch.nn.Linear(2, 2).to(mm.get_torch_device())\n"
        "def run():\n"
        "    if Holder.model is None: Holder.model = build()\n"
        "    if 'x' not in MANAGER.cache: MANAGER.cache['x'] = {'model': build()}\n"
        "    if MANAGER.last is None: MANAGER.last = build()\n"
        "    models = Holder.model, MANAGER.cache['x']['model'], MANAGER.last\n"
        "    return ' '.join(str(m.weight.device) for m in models)\n"
    )
    for device in ("npu:1", "npu:0", "npu:1", "npu:2"):
        assert pack.on(device) == " ".join([device] * 3)
        assert pack.plain() == "npu:0 npu:0 npu:0"
    assert pack.variables["COUNT"] == [9]


def test_a_model_that_is_made_at_import_and_moved_by_each_call_is_moved(write_pack: Write) -> None:
    pack = write_pack(
        "MODEL = torch.nn.Linear(2, 2)\ndef run():\n    return str(MODEL.to(mm.get_torch_device()).weight.device)\n"
    )
    assert [pack.on("npu:1"), pack.plain(), pack.on("npu:2")] == ["npu:1", "npu:0", "npu:2"]


def test_a_choice_of_several_devices_in_a_pack_is_left_alone(write_pack: Write) -> None:
    pack = write_pack(
        'OFFLOAD = "npu:2"\nCHOICES = ["auto", "npu:0", "npu:1"]\ndef run():\n    return f"{OFFLOAD} {CHOICES}"\n'
    )
    assert pack.on("npu:1") == "npu:2 ['auto', 'npu:0', 'npu:1']"


HIDDEN = """
import comfy.model_management as mm
device = mm.get_torch_device()
class Hidden:
    RETURN_TYPES = ("STRING",)
    FUNCTION = "call"
    RELATIVE_PYTHON_MODULE = "custom_nodes.written_pack"
    INPUT_TYPES = classmethod(lambda cls: {"required": {}})
    def call(self):
        return (str(device),)
"""


def test_a_pack_whose_files_no_import_knows_is_found_by_its_nodes(write_pack: Write) -> None:
    pack = write_pack(
        "import importlib.util, pathlib\n"
        "file = pathlib.Path(__file__).parent / 'hidden.py'\n"
        f"file.write_text({HIDDEN!r})\n"
        "spec = importlib.util.spec_from_file_location('hidden', file)\n"
        "hidden = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(hidden)\n"
        "HELD = [hidden.Hidden]\n"
        "del hidden, spec\n"
        "def run(): ...\n"
    )
    importlib.import_module("nodes").NODE_CLASS_MAPPINGS["Written"] = pack.variables["HELD"][0]
    assert "hidden" not in sys.modules
    assert [pack.on("npu:1"), pack.plain()] == ["npu:1", "npu:0"]
