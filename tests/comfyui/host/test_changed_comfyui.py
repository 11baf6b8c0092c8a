"""In a ComfyUI that has changed what we build on, start-up says so, that feature is off, and the rest works."""

from __future__ import annotations

import ast
import asyncio
import importlib
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import reduce
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from multigpu import hookimpl, hookspecs
from multigpu.hookspecs import PackDevices, WrappedLoader, split_and_device
from multigpu.multigpu_core.comfy.host.comfyui_names import ComfyUIName
from multigpu.multigpu_core.comfy.host.compatibility import (
    NAMES,
    Feature,
    UnsupportedComfyUIError,
    declared,
    missing_features,
)
from multigpu.multigpu_core.plugins import PluginManager

from ..support.in_process import ComfyUI
from ..support.outputs import sampled

V1, V3 = "UNETLoader", "FrameInterpolationModelLoader"
VARIANTS = {
    V1: ("UNETLoaderMultiGPU", "UNETLoaderDisTorch2MultiGPU", "UNetLoaderLP"),
    V3: ("FrameInterpolationModelLoaderMultiGPU",),
}
FIRST_OF_ITS_FEATURES = {each.features: each for each in reversed(NAMES) if "." not in each.name}.values()
"""One name for each set of features, of those that are hidden from us alone: a sampling takes a second."""
CLASSES = (
    "comfy.model_patcher.ModelPatcher", "comfy.model_management.LoadedModel", "comfy.controlnet.ControlNet",
    "execution.PromptQueue", "execution.PromptExecutor", "server.PromptServer",
)  # fmt: skip
FREE = ("DeviceSelectorMultiGPU",)
"""Nodes of ours that wrap nothing."""
FLUX = {"unet_name": "flux.safetensors", "weight_dtype": "default"}
SPLIT = {"compute_device": "npu:0", "expert_mode_allocations": "npu:0,50%;npu:1,50%"}


@pytest.fixture
def few_nodes(comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch) -> dict[str, type]:
    """What ComfyUI serves, without our nodes: one core loader of each kind."""
    nodes = {node_id: comfyui.nodes.NODE_CLASS_MAPPINGS[node_id] for node_id in (V1, V3)}
    monkeypatch.setattr(comfyui.nodes, "NODE_CLASS_MAPPINGS", nodes)
    return nodes


@contextmanager
def _hidden(name: ComfyUIName) -> Iterator[None]:
    """This ComfyUI without one of its names. What is in a module is hidden from us alone: core nodes go on using it."""
    *path, last = name.name.split(".")
    module = importlib.import_module(name.module)
    with pytest.MonkeyPatch.context() as patched:
        if path:
            patched.delattr(reduce(getattr, path, module), last, raising=not name.is_optional)
        else:
            without = ModuleType(module.__name__)
            vars(without).update({each: value for each, value in vars(module).items() if each != last})
            patched.setitem(sys.modules, name.module, without)
        yield


@contextmanager
def _started() -> Iterator[Any]:
    """Our framework, started once more in this ComfyUI as it is now."""
    framework = importlib.import_module("multigpu.multigpu_core.comfy.startup").start()
    try:
        yield framework
    finally:
        framework.context.models.retained.release_all()
        framework.stop()


def test_nothing_is_missing_in_this_comfyui(comfyui: ComfyUI) -> None:
    assert missing_features() == {}


@pytest.mark.parametrize("name", NAMES, ids=lambda name: f"{name}{' replaced' * name.is_replaced}")
def test_without_one_name_its_features_are_off_and_all_else_works(
    comfyui: ComfyUI, few_nodes: dict[str, type], caplog: pytest.LogCaptureFixture, name: ComfyUIName
) -> None:
    due = [each for each in NAMES if str(each) == str(name) and not each.is_optional and each.is_due]
    of_it = {feature for each in due for feature in each.features}
    with ExitStack() as stopped, ExitStack() as hidden:
        hidden.enter_context(_hidden(name))
        if Feature.EXTENSION in of_it:
            with pytest.raises(UnsupportedComfyUIError, match=f"{name} is gone"):
                stopped.enter_context(_started())
            return
        caplog.clear()
        framework = stopped.enter_context(_started())
        lines = [line for record in caplog.records if "has changed" in (line := record.getMessage())]
        told = importlib.import_module("multigpu.multigpu_core.comfy.trials.jobs").readiness(framework, {})
        assert told["missing"].keys() == {feature.value for feature in of_it}
        assert all(f"{name} is gone" in reason for reason in told["missing"].values())
        assert [[feature.value in line for line in lines].count(True) for feature in of_it] == [1] * len(lines)
        wrapped = [V1] if Feature.V3_LOADERS in of_it else [V1, V3]
        assert framework.NODE_CLASS_MAPPINGS.keys() == {*FREE, *(node for each in wrapped for node in VARIANTS[each])}
        few_nodes.update(framework.NODE_CLASS_MAPPINGS)
        assert not framework.plugins.records["comfy_core"].why_not, "its loaders are left out, not tried"
        if "." in name.name:
            hidden.close()  # it is hidden from ComfyUI, too, whose own loader runs now
        (whole,) = comfyui.run("UNETLoaderMultiGPU", **FLUX, device="npu:1")
        assert whole.load_device == torch.device("npu:1")
        if Feature.SPLITTING in of_it:
            with pytest.raises(RuntimeError, match=f"{name} is gone.*MultiGPU variant"):
                comfyui.run("UNETLoaderDisTorch2MultiGPU", **FLUX, **SPLIT)
            return
        (split,) = comfyui.run("UNETLoaderDisTorch2MultiGPU", **FLUX, **SPLIT, keep_loaded=True)
        assert len(framework.context.models.retained) == (Feature.KEEPING not in of_it)
        if name in FIRST_OF_ITS_FEATURES:
            assert sampled(comfyui, split).isfinite().all()


def test_whatever_takes_other_arguments_is_named_with_them(comfyui: ComfyUI) -> None:
    def changed(*, something_else: int) -> None: ...

    for name in filter(lambda name: name.parameters, NAMES):
        *path, last = name.name.split(".")
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(reduce(getattr, path, importlib.import_module(name.module)), last, changed)
            assert name.fault == f"{name} takes no {', '.join(name.parameters)}"


def test_every_method_of_comfyui_s_objects_that_we_use_is_listed(comfyui: ComfyUI, repository: Path) -> None:
    files = (repository / "multigpu_core" / "comfy").rglob("*.py")
    nodes = (node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    used = {node.attr for node in nodes if isinstance(node, ast.Attribute) and not node.attr.startswith("__")}
    of_other_objects = {
        "execute",
        "send",
        "lowvram_patch_counter",
        "start",
    }  # a V3 node's, a coroutine's, a model's, a thread's
    of_other_objects.add("instance")  # the server has it only while it runs: without one our code does without
    listed = {name.name.rpartition(".")[2] for name in NAMES}
    for name in CLASSES:
        module, _, class_name = name.rpartition(".")
        in_class = dir(getattr(importlib.import_module(module), class_name))
        assert sorted(used & set(in_class) - listed - of_other_objects) == [], f"of {name}"


@pytest.fixture
def page(comfyui: ComfyUI, few_nodes: dict[str, type], monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A server, as much of it as start-up needs: routes, an application, and a queue in which a prompt runs."""
    queue = importlib.import_module("execution").PromptQueue(SimpleNamespace(queue_updated=lambda: None))
    queue.currently_running[0] = (0, "prompt", {})
    parts = {"routes": web.RouteTableDef(), "app": web.Application(), "prompt_queue": queue}
    running = SimpleNamespace(**parts, add_on_prompt_handler=lambda handler: None)
    monkeypatch.setattr(importlib.import_module("server").PromptServer, "instance", running, raising=False)
    return running


def _posted(page: SimpleNamespace, route: str, body: dict[str, Any]) -> tuple[int, str]:
    async def post() -> tuple[int, str]:
        app = web.Application()
        app.add_routes(page.routes)
        async with TestClient(TestServer(app)) as client:
            answer = await client.post(route, json=body)
            return answer.status, await answer.text()

    return asyncio.run(post())


KEY = {"key": 1}
PLAN = {"files": [{"input": "unet_name", "name": "flux.safetensors"}], "compute_device": "npu:0"}


@pytest.mark.parametrize(
    ("name", "route", "body", "otherwise", "status"),
    [
        ("comfy_execution.utils.get_executing_context", "keep", {**KEY, "keep_loaded": True}, 404, 501),
        ("execution.PromptQueue.get", "unload", KEY, 409, 501),
        ("folder_paths.get_filename_list", "plan", PLAN, 200, 200),
        ("server.create_origin_only_middleware", "plan", PLAN, 200, 404),
    ],
)
def test_a_route_whose_feature_is_off_says_so_and_the_others_are_served(
    page: SimpleNamespace, name: str, route: str, body: dict[str, Any], otherwise: int, status: int
) -> None:
    with _started():
        assert _posted(page, f"/multigpu/{route}", body)[0] == otherwise
    page.routes = web.RouteTableDef()
    with _hidden(declared(name)), _started():
        got, text = _posted(page, f"/multigpu/{route}", body)
        has_panel = _posted(page, "/multigpu/keep", {})[0] == 400
    assert got == status
    assert has_panel == (status != 404) and (status == 404 or name in text)


@pytest.mark.parametrize(
    ("name", "watches"),
    [
        ("comfy.cli_args.enables_dynamic_vram", {"HostMemoryWatch", "RetentionWatch"}),
        ("execution.PromptQueue.get", {"HostMemoryWatch"}),
        ("execution.PromptQueue.get_flags", {"RetentionWatch"}),
    ],
)
def test_what_cannot_be_done_is_not_watched_for(
    page: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, name: str, watches: set[str]
) -> None:
    watched: list[object] = []

    async def note(watch: object) -> None:
        watched.append(watch)

    async def run() -> None:
        async with TestServer(page.app):
            await asyncio.sleep(0)

    monkeypatch.setattr(importlib.import_module("multigpu.multigpu_core.comfy.startup"), "_keep_looking", note)
    with _hidden(declared(name)), _started():
        asyncio.run(run())
    assert {type(watch).__name__ for watch in watched} == watches


def test_comfyui_frees_all_models_itself_where_it_does_not_say_what_is_out_of_memory(
    comfyui: ComfyUI, few_nodes: dict[str, type]
) -> None:
    mm, patches = importlib.import_module("comfy.model_management"), comfyui.framework.patches
    with ExitStack() as stack:
        patches.restore()
        stack.callback(patches.install)
        stack.enter_context(_hidden(declared("comfy.model_management.is_oom")))
        framework = stack.enter_context(_started())
        few_nodes.update(framework.NODE_CLASS_MAPPINGS)
        (model,) = comfyui.run("UNETLoaderMultiGPU", **FLUX, device="npu:1")
        mm.load_models_gpu([model])
        sys.modules["comfy.model_management"].unload_all_models()
        assert mm.current_loaded_models == []


def test_verify_says_what_has_changed(comfyui: ComfyUI, few_nodes: dict[str, type], tmp_path: Path) -> None:
    jobs = importlib.import_module("multigpu.multigpu_core.comfy.trials.jobs")
    with _hidden(declared("comfy.sample.sample")), _started() as framework:
        answer = jobs.verify(framework, {"file": str(tmp_path / "flux.safetensors"), "trial": {}})
    assert "comfy.sample.sample is gone" in answer["error"] and "docs/compatibility.md" in answer["error"]


def test_a_loader_s_own_error_is_raised_where_its_files_cannot_be_found(
    comfyui: ComfyUI, few_nodes: dict[str, type]
) -> None:
    with _hidden(declared("folder_paths.get_filename_list")), _started() as framework:
        few_nodes.update(framework.NODE_CLASS_MAPPINGS)
        with pytest.raises(FileNotFoundError):
            comfyui.run("UNETLoaderMultiGPU", unet_name="none.safetensors", weight_dtype="default", device="npu:1")


def test_nodes_of_packs_with_an_offload_global_are_left_out_where_nobody_says_its_device(
    comfyui: ComfyUI, few_nodes: dict[str, type]
) -> None:
    class Plugin:
        @hookimpl
        def multigpu_wrap_loader(self) -> Iterator[WrappedLoader]:
            yield WrappedLoader(V1, split_and_device("One"), PackDevices(("MODEL",), offload_globals=("home",)))
            yield WrappedLoader(V1, split_and_device("Other"), PackDevices(("MODEL",)))

    registration = importlib.import_module("multigpu.multigpu_core.comfy.nodes.registration")
    plugins = PluginManager(hookspecs)
    plugins.register(Plugin(), "plugin")
    context = replace(comfyui.framework.context, missing={Feature.PACK_DEVICES: "it is gone"})
    found = registration.NodeRegistration(plugins, context)
    found.register()
    assert found.classes.keys() == {"OtherMultiGPU", "OtherDisTorch2MultiGPU"}


def test_where_models_cannot_be_split_the_split_node_says_why_and_all_else_works(
    comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = {Feature.SPLITTING: "comfy.model_patcher.ModelPatcher.partially_load is gone"}
    monkeypatch.setitem(vars(comfyui.framework.context), "missing", faults)
    with pytest.raises(RuntimeError, match=r"partially_load is gone.*MultiGPU variant"):
        comfyui.run("UNETLoaderDisTorch2MultiGPU", **FLUX, **SPLIT)
    (whole,) = comfyui.run("UNETLoader", **FLUX)
    (elsewhere,) = comfyui.run("UNETLoaderMultiGPU", **FLUX, device="npu:1")
    assert torch.equal(sampled(comfyui, elsewhere), sampled(comfyui, whole))


def test_where_auxiliary_models_cannot_be_served_models_still_load_and_sample(
    comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vars(comfyui.framework.context), "missing", {Feature.AUXILIARY_MODELS: "it is gone"})
    (model,) = comfyui.run("UNETLoaderMultiGPU", **FLUX, device="npu:1")
    (control,) = comfyui.run("ControlNetLoaderMultiGPU", control_net_name="flux.safetensors", device="npu:1")
    assert sampled(comfyui, model).isfinite().all() and "multigpu" not in type(control).__module__


def test_where_no_node_can_be_given_a_device_those_that_have_one_are_used_still(
    comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vars(comfyui.framework.context), "missing", {Feature.ANY_NODE: "it is gone"})
    with pytest.raises(ValueError, match="SaveImage cannot be given a device: this ComfyUI has changed: it is gone"):
        comfyui.framework.any_node.choice_for("SaveImage")
    assert comfyui.framework.any_node.choice_for("UNETLoader").node_id == "UNETLoaderMultiGPU"
