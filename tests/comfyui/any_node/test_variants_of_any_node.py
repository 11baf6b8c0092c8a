"""Variants of nodes of every shape: lists, lazy inputs, async classes, V3 classes, inputs called `device`."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from structlog.testing import capture_logs

from ..support.in_process import ComfyUI
from .conftest import WrittenPack

Write = Callable[..., WrittenPack]
WHERE = "def run(**inputs):\n    return str(mm.get_torch_device())\n"


def test_a_class_that_wants_lists_gets_lists_and_our_device_alone(write_pack: Write) -> None:
    pack = write_pack(
        "def run(words):\n    return f'{words} {mm.get_torch_device()}'\n",
        'RETURN_TYPES = ("STRING",)\n    INPUT_IS_LIST = True\n    OUTPUT_IS_LIST = (False,)',
        "{'words': ('STRING',)}",
    )
    assert pack.on(["npu:1"], words=["a", "b"]) == "['a', 'b'] npu:1"


def test_a_class_with_lazy_inputs_says_which_it_needs(write_pack: Write, comfyui: ComfyUI) -> None:
    pack = write_pack(
        WHERE,
        'RETURN_TYPES = ("STRING",)\n    check_lazy_status = lambda self, **inputs: sorted(inputs)',
        "{'words': ('STRING', {'lazy': True})}",
    )
    node = comfyui.nodes.NODE_CLASS_MAPPINGS[pack.any_node.choice_for("Written").node_id]()
    assert node.check_lazy_status(words=None, device="npu:1") == ["words"]


def test_an_async_node_runs_on_its_device_at_every_step(write_pack: Write) -> None:
    pack = write_pack(
        "import asyncio\n"
        "def where():\n"
        "    return f\"{mm.get_torch_device()} {torch.ones(1, device='npu').device}\"\n"
        "class Later:\n"
        "    FUNCTION = 'call'\n"
        "    RETURN_TYPES = ('STRING',)\n"
        "    INPUT_TYPES = classmethod(lambda cls: {'required': {}})\n"
        "    async def call(self):\n"
        "        first = where()\n"
        "        await asyncio.sleep(0)\n"
        "        return (f'{first} {where()}',)\n"
        "def run(): ...\n"
        "Written = Later\n"
        "class Shadow: pass\n"
    )
    importlib.import_module("nodes").NODE_CLASS_MAPPINGS["Written"] = _from(pack, "Later")
    assert pack.on("npu:1") == "npu:1 npu:1 npu:1 npu:1"


def test_a_v3_node_runs_on_its_device(write_pack: Write) -> None:
    pack = write_pack(
        "from comfy_api.latest import io\n"
        "class Third(io.ComfyNode):\n"
        "    @classmethod\n"
        "    def define_schema(cls):\n"
        "        return io.Schema('Third', inputs=[io.String.Input('words')], outputs=[io.String.Output()])\n"
        "    @classmethod\n"
        "    def execute(cls, words):\n"
        "        return io.NodeOutput(f'{words} {mm.get_torch_device()}')\n"
        "def run(): ...\n"
    )
    importlib.import_module("nodes").NODE_CLASS_MAPPINGS["Written"] = _from(pack, "Third")
    assert [pack.on("npu:1", words="x"), pack.plain(words="x")] == ["x npu:1", "x npu:0"]


def _from(pack: WrittenPack, name: str) -> Any:
    node = pack.variables[name]
    node.RELATIVE_PYTHON_MODULE = "custom_nodes.written_pack"
    return node


def test_a_class_with_an_input_called_device_keeps_it(write_pack: Write) -> None:
    pack = write_pack(
        "def run(device):\n    return f'{device} {mm.get_torch_device()}'\n",
        inputs="{'device': (['gpu', 'cpu'],)}",
    )
    choice = pack.any_node.choice_for("Written")
    assert choice.device_input == "multigpu_device"
    assert pack.plain(choice.node_id, device="gpu", multigpu_device="npu:1") == "gpu npu:1"


def test_a_class_that_lists_every_accelerator_is_used_as_it_is(write_pack: Write) -> None:
    pack = write_pack(WHERE, inputs="{'where': (['auto', 'npu:0', 'npu:1', 'npu:2'],)}")
    choice = pack.any_node.choice_for("Written")
    assert (choice.node_id, choice.device_input) == ("Written", "where")


def test_a_model_that_only_passes_through_stays_where_it_is(write_pack: Write, comfyui: ComfyUI) -> None:
    pack = write_pack("def run(model):\n    return model\n", 'RETURN_TYPES = ("MODEL",)', "{'model': ('MODEL',)}")
    patcher = importlib.import_module("comfy.model_patcher").ModelPatcher(
        torch.nn.Linear(2, 2), torch.device("npu:0"), torch.device("cpu")
    )
    assert pack.on("npu:1", model=patcher) is patcher
    assert patcher.load_device == torch.device("npu:0")


def test_a_model_made_in_the_node_is_tracked_on_its_device(write_pack: Write, comfyui: ComfyUI) -> None:
    pack = write_pack(
        "from comfy.model_patcher import ModelPatcher\n"
        "def run():\n"
        "    return ModelPatcher(torch.nn.Linear(2, 2), torch.device('npu', 0), torch.device('cpu'))\n",
        'RETURN_TYPES = ("MODEL",)',
    )
    patcher = pack.on("npu:1")
    assert patcher.load_device == torch.device("npu:1"), "the code said npu:0 for a patcher: ComfyUI can move that"
    assert comfyui.framework.context.models.devices_of(patcher).compute == torch.device("npu:1")


@pytest.mark.parametrize(
    ("kind", "made", "tensor"),
    [
        ("IMAGE", "torch.ones(1, 2, device=d)", lambda r: r),
        ("MASK", "torch.ones(1, 2, device=d)", lambda r: r),
        ("SIGMAS", "torch.ones(2, device=d)", lambda r: r),
        ("LATENT", "{'samples': torch.ones(1, device=d), 'kind': 'x'}", lambda r: r["samples"]),
        ("AUDIO", "{'waveform': torch.ones(1, device=d), 'sample_rate': 1}", lambda r: r["waveform"]),
        (
            "CONDITIONING",
            "[[torch.ones(1, device=d), {'pooled_output': torch.ones(1, device=d)}]]",
            lambda r: r[0][1]["pooled_output"],
        ),
        (
            "NOISE",
            "type('Noise', (), {'__init__': lambda s: setattr(s, 'base', torch.ones(1, device=d))})()",
            lambda r: r.base,
        ),
    ],
)
def test_results_arrive_where_the_next_node_expects_them(
    write_pack: Write, kind: str, made: str, tensor: Callable[[Any], torch.Tensor]
) -> None:
    pack = write_pack(f"def run():\n    d = mm.get_torch_device()\n    return {made}\n", f'RETURN_TYPES = ("{kind}",)')
    assert tensor(pack.on("npu:1")).device.type == "cpu"


def test_with_gpu_only_results_go_to_comfyuis_own_device(write_pack: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("comfy.cli_args").args, "gpu_only", True)
    pack = write_pack(
        "def run():\n    return torch.ones(1, device=mm.get_torch_device())\n", 'RETURN_TYPES = ("IMAGE",)'
    )
    assert str(pack.on("npu:1").device) == "npu:0"


def test_unknown_and_unsuitable_nodes_are_refused_with_the_way_out(write_pack: Write) -> None:
    pack = write_pack(WHERE, inputs="1 / 0")
    with pytest.raises(LookupError, match=r"no node 'Writen'\. Did you mean Written\?"):
        pack.any_node.choice_for("Writen")
    with pytest.raises(ValueError, match="cannot list its inputs"):
        pack.any_node.choice_for("Written")


def test_a_worker_process_of_a_pack_is_named(write_pack: Write) -> None:
    pack = write_pack(
        "import types\n"
        "isolated = types.ModuleType('comfy_env')\n"
        "def run():\n    raise RuntimeError('Expected all tensors to be on the same device')\n"
    )
    with pytest.raises(RuntimeError, match="worker process of comfy_env"):
        pack.on("npu:1")


def test_an_error_about_devices_without_a_call_to_blame_says_what_can_be_done(write_pack: Write) -> None:
    pack = write_pack("def run():\n    raise RuntimeError('Expected all tensors to be on the same device')\n")
    with pytest.raises(RuntimeError, match=r"cannot run on npu:1: Expected all.*No call in its pack's source"):
        pack.on("npu:1")


def test_variants_are_made_once_and_logged(write_pack: Write) -> None:
    pack = write_pack(WHERE)
    with capture_logs() as logs:
        first, second = pack.any_node.choice_for("Written"), pack.any_node.choice_for("WrittenMultiGPU")
    assert first == second and [log["event"] for log in logs] == ["variant_made"]
