"""Devices that libraries are given in arguments of their own, and torch calls that name the first device."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from ..support.in_process import ComfyUI
from .conftest import WrittenPack

Write = Callable[..., WrittenPack]


@pytest.fixture
def any_node(comfyui: ComfyUI) -> SimpleNamespace:
    """The modules of the room, and a choice of npu:1 where ComfyUI computes on npu:0."""
    room = "multigpu.multigpu_core.comfy.any_node"
    modules = {name: importlib.import_module(f"{room}.{name}") for name in ("choice", "call_scope")}
    libraries = ("device_arguments", "interception", "subprocesses", "redirection")
    modules |= {name: importlib.import_module(f"{room}.libraries.{name}") for name in libraries}
    scope = importlib.import_module("multigpu.multigpu_core.comfy.host.scope")
    registry, devices = comfyui.framework.context.host.registry, scope.Devices(torch.device("npu:1"))
    chosen = modules["choice"].Choice(registry, devices, torch.device("npu:0"))
    on_cpu = replace(chosen, devices=scope.Devices(torch.device("cpu")), redirects=True)
    return SimpleNamespace(**modules, chosen=chosen, on_cpu=on_cpu)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [("npu", "npu:1"), ("npu:0", "npu:1"), ("npu:2", "npu:2"), ("cpu", "cpu"), ("cuda", "cuda"), ("cuda:0", "cuda:0")],
)
def test_what_names_the_home_device_means_the_chosen_one(any_node: SimpleNamespace, given: str, wanted: str) -> None:
    assert any_node.chosen.instead_of(given) == wanted
    assert any_node.chosen.instead_of(torch.device(given)) == torch.device(wanted)


@pytest.mark.parametrize(
    ("given", "wanted"), [(0, 1), (2, 2), (True, True), (False, False), (None, None), ("no", "no")]
)
def test_only_numbers_and_names_of_devices_are_mapped(any_node: SimpleNamespace, given: Any, wanted: Any) -> None:
    found = any_node.chosen.instead_of(given)
    assert found == wanted and type(found) is type(wanted)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("npu", "npu:1"),
        ("npu:2", "npu:2"),
        ({"": 0}, {"": 1}),
        ({"a": "npu:0", "b": "cpu", "c": "disk"}, {"a": "npu:1", "b": "cpu", "c": "disk"}),
    ],
)
def test_a_device_map_names_the_chosen_device(any_node: SimpleNamespace, given: Any, wanted: Any) -> None:
    rewritten = any_node.device_arguments.with_chosen_map(any_node.chosen, {"device_map": given, "other": 1})
    assert rewritten == {"device_map": wanted, "other": 1}


def test_an_automatic_map_may_fill_the_chosen_device_and_spill_to_the_cpu(any_node: SimpleNamespace) -> None:
    rewritten = any_node.device_arguments.with_chosen_map(any_node.chosen, {"device_map": "auto"})
    assert rewritten["device_map"] == "auto" and set(rewritten["max_memory"]) == {1, "cpu"}
    own = {"device_map": "auto", "max_memory": {0: "2GiB"}}
    assert any_node.device_arguments.with_chosen_map(any_node.chosen, own) == own
    moved = any_node.device_arguments.with_chosen_map(any_node.on_cpu, {"device_map": "auto"})
    assert moved["device_map"] == {"": "cpu"}


def test_onnxruntime_gets_the_number_of_the_device(any_node: SimpleNamespace) -> None:
    provider = any_node.device_arguments.chosen_provider
    assert provider(any_node.chosen, "CUDAExecutionProvider") == ("CUDAExecutionProvider", {"device_id": 1})
    assert provider(any_node.chosen, "CPUExecutionProvider") == "CPUExecutionProvider"
    elsewhere = ("CUDAExecutionProvider", {"device_id": 2})
    assert provider(any_node.chosen, elsewhere) == elsewhere
    assert provider(any_node.on_cpu, "CUDAExecutionProvider") == "CPUExecutionProvider"


@pytest.fixture
def tiny_model(tmp_path: Path) -> Path:
    transformers = importlib.import_module("transformers")
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 1}
    with torch.inference_mode(False):
        transformers.BertModel(transformers.BertConfig(vocab_size=8, **shape)).save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


@pytest.mark.parametrize("device_map", ["npu", "auto", {"": "npu:0"}])
def test_transformers_loads_to_the_chosen_device(write_pack: Write, tiny_model: Path, device_map: Any) -> None:
    pytest.importorskip("accelerate", reason="transformers needs accelerate for a device map")
    pack = write_pack(
        "def run(path, device_map):\n"
        "    from transformers import AutoModel\n"
        "    model = AutoModel.from_pretrained(path, device_map=device_map)\n"
        "    return ' '.join(sorted({str(p.device) for p in model.parameters()}))\n"
    )
    assert pack.on("npu:1", path=str(tiny_model), device_map=device_map) == "npu:1"


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A library that is imported by the first call."""
    (tmp_path / "made_up_library.py").write_text(
        "class Loader:\n    @classmethod\n    def load(cls, where): return where\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "made_up_library"
    sys.modules.pop("made_up_library", None)


def test_a_library_that_a_call_imports_is_served_and_restored(any_node: SimpleNamespace, library: str) -> None:
    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        return lambda cls, where: f"replaced {original(cls, where)}"

    point = any_node.interception.Intercepted(library, "Loader.load", wrap)
    missing = any_node.interception.Intercepted(library, "Loader.gone", wrap)
    interception = any_node.interception.Interception([point, missing])
    with interception.installed():
        made: ModuleType = importlib.import_module(library)
        with interception.installed():
            assert made.Loader.load("x") == "replaced x"
        assert made.Loader.load("x") == "replaced x", "the outer call is still running"
    assert made.Loader.load("x") == "x"
    with interception.installed():
        assert made.Loader.load("x") == "replaced x"


REDIRECTED = """
def run(path):
    torch.save(torch.ones(2), path)
    torch.npu.set_device(0)
    found = [
        torch.ones(2).to("npu:0"), torch.ones(2).to(device="npu:0"), torch.zeros(2, device="npu:0"),
        torch.load(path, map_location="npu:0"), torch.load(path, "npu:0"), torch.nn.Linear(2, 2).to("npu:0").weight,
        torch.ones(2).npu(0),
    ]
    kept = torch.ones(2).to(torch.device("npu:0")), torch.ones(2).to("npu:2"), torch.ones(2).to("cpu")
    return " ".join(str(each.device) for each in (*found, *kept))
"""


def test_redirection_maps_words_and_numbers_but_no_torch_device(
    write_pack: Write, comfyui: ComfyUI, tmp_path: Path
) -> None:
    pack = write_pack(REDIRECTED)
    creation = importlib.import_module("multigpu.multigpu_core.comfy.any_node.creation")
    pack.any_node = creation.SelfLoadingNodes(comfyui.framework.context, ["written_pack"])
    assert pack.on("npu:1", path=str(tmp_path / "t.pt")) == " ".join(["npu:1"] * 7 + ["npu:0", "npu:2", "cpu"])


def test_redirection_is_off_while_comfyui_loads_and_samples(
    write_pack: Write, comfyui: ComfyUI, tmp_path: Path
) -> None:
    pack = write_pack(
        "from comfy.model_patcher import ModelPatcher\n"
        "class Telling(torch.nn.Linear):\n"
        "    def to(self, *args, **kwargs):\n"
        "        TOLD.append(str(torch.ones(1).to('npu:0').device))\n"
        "        return super().to(*args, **kwargs)\n"
        "TOLD = []\n"
        "def run():\n"
        "    mm.load_models_gpu([ModelPatcher(Telling(2, 2), torch.device('npu:0'), torch.device('cpu'))])\n"
        "    TOLD.append(str(torch.ones(1).to('npu:0').device))\n"
        "    return ' '.join(TOLD)\n"
    )
    creation = importlib.import_module("multigpu.multigpu_core.comfy.any_node.creation")
    pack.any_node = creation.SelfLoadingNodes(comfyui.framework.context, ["written_pack"])
    *inside, outside = pack.on("npu:1").split()
    assert set(inside) == {"npu:0"} and outside == "npu:1"


@pytest.mark.parametrize(
    ("parent", "given", "wanted"),
    [
        ({}, None, "1"),
        ({"ASCEND_RT_VISIBLE_DEVICES": "4,6"}, None, "6"),
        ({"ASCEND_RT_VISIBLE_DEVICES": "GPU-a, GPU-b"}, None, "GPU-b"),
        ({}, {"ASCEND_RT_VISIBLE_DEVICES": "3"}, "3"),
        ({}, {"OTHER": "x"}, "1"),
    ],
)
def test_a_child_process_sees_the_chosen_device_alone(
    any_node: SimpleNamespace, parent: dict[str, str], given: dict[str, str] | None, wanted: str
) -> None:
    environment = any_node.subprocesses.child_environment(any_node.chosen, given, parent)
    assert environment["ASCEND_RT_VISIBLE_DEVICES"] == wanted
    assert (given or {}).get("OTHER") == environment.get("OTHER")


def test_a_child_process_of_a_node_on_the_cpu_sees_no_accelerator(any_node: SimpleNamespace) -> None:
    assert any_node.subprocesses.child_environment(any_node.on_cpu, None, {})["ASCEND_RT_VISIBLE_DEVICES"] == "-1"


def test_workers_of_torchs_compiler_see_every_device(write_pack: Write) -> None:
    pack = write_pack(
        "import subprocess\n"
        "SHOW = \"import os; print(os.environ.get('ASCEND_RT_VISIBLE_DEVICES', 'all'))\"\n"
        "SPAWN = \"subprocess.check_output([sys.executable, '-S', '-c', SHOW], text=True).strip()\"\n"
        "def run(name):\n"
        "    return eval(SPAWN, {'__name__': name, 'subprocess': subprocess, 'sys': sys, 'SHOW': SHOW})\n"
    )
    assert pack.on("npu:1", name="torch._inductor.compile_worker") == "all"
    assert pack.on("npu:1", name="somebody") == "1"
