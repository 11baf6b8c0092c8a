"""Our nodes as ComfyUI's own validation and executor treat them."""

from __future__ import annotations

import asyncio
import inspect
import uuid
from typing import Any

import pytest

from ..support.in_process import ComfyUI

LOADER = "UNETLoaderDisTorch2MultiGPU"
FLUX = {"unet_name": "flux.safetensors", "weight_dtype": "default"}
Workflow = dict[str, dict[str, Any]]


class ShowDevice:
    """An output node that tells where its model computes."""

    RETURN_TYPES = ()
    FUNCTION = "show"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"model": ("MODEL",)}}

    def show(self, model: Any) -> dict[str, Any]:
        return {"ui": {"device": [str(model.load_device)]}}


class Page:
    """In the place of ComfyUI's server: what the executor tells the page."""

    client_id = "test"
    last_node_id = None

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def send_sync(self, event: str, data: Any, sid: str | None = None) -> None:
        self.events.append((event, data))

    def said(self, event: str) -> list[dict[str, Any]]:
        return [data for kind, data in self.events if kind == event]


class Executor:
    """ComfyUI's own executor, kept from one workflow to the next as the server keeps it."""

    def __init__(self) -> None:
        import execution

        self.page = Page()
        self._executor = execution.PromptExecutor(
            self.page, cache_type=execution.CacheType.CLASSIC, cache_args={"ram": 0, "ram_inactive": 0}
        )

    def validate(self, workflow: Workflow) -> tuple[bool, dict[str, Any]]:
        """Whether ComfyUI accepts a workflow, and the errors by node."""
        import execution

        arguments = ("id", workflow, None)
        given = len(inspect.signature(execution.validate_prompt).parameters)
        valid, _, _, node_errors = asyncio.run(execution.validate_prompt(*arguments[:given]))
        return valid, node_errors

    def execute(self, workflow: Workflow) -> set[str]:
        """Run a workflow; the ids of the nodes whose cached results were used."""
        self.page.events.clear()
        self._executor.execute(workflow, uuid.uuid4().hex, {"client_id": "test"}, ["show"])
        (cached,) = self.page.said("execution_cached")
        return set(cached["nodes"])

    @property
    def failure(self) -> dict[str, Any] | None:
        errors = self.page.said("execution_error")
        return errors[0] if errors else None


@pytest.fixture
def executor(comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch) -> Executor:
    monkeypatch.setitem(comfyui.nodes.NODE_CLASS_MAPPINGS, "ShowDevice", ShowDevice)
    return Executor()


def _workflow(class_type: str = LOADER, **inputs: Any) -> Workflow:
    return {
        "load": {"class_type": class_type, "inputs": FLUX | inputs},
        "show": {"class_type": "ShowDevice", "inputs": {"model": ["load", 0]}},
    }


def test_a_workflow_that_names_an_absent_device_is_refused_at_its_node_before_it_runs(executor: Executor) -> None:
    for workflow in (
        _workflow("UNETLoaderMultiGPU", device="npu:7"),
        _workflow(compute_device="npu:7", virtual_vram_gb=1.0, donor_device="cpu"),
        _workflow(compute_device="npu:0", virtual_vram_gb=1.0, donor_device="npu:7"),
    ):
        valid, errors = executor.validate(workflow)
        assert not valid and set(errors) == {"load"}
        message = errors["load"]["errors"][0]["details"]
        assert "npu:7" in message and all(name in message for name in ("cpu", "npu:0", "npu:1", "npu:2"))


def test_donors_in_a_list_are_accepted_as_when_they_are_read_and_a_wrong_one_is_named(executor: Executor) -> None:
    split = {"compute_device": "npu:0", "virtual_vram_gb": 1.0}
    assert executor.validate(_workflow(**split, donor_device="npu:1,cpu")) == (True, {})
    valid, errors = executor.validate(_workflow(**split, donor_device="npu:1,npu:7"))
    assert not valid and "npu:7" in errors["load"]["errors"][0]["details"]


def test_a_kind_of_device_that_this_machine_lacks_is_refused_too(executor: Executor) -> None:
    valid, errors = executor.validate(_workflow("UNETLoaderMultiGPU", device="cuda:1"))
    assert not valid and "cuda:1" in errors["load"]["errors"][0]["details"]


def test_a_wrong_allocation_is_shown_whole_with_its_place_marked(executor: Executor) -> None:
    workflow = _workflow(compute_device="npu:0", expert_mode_allocations="npu:0,2gb;npu:1,2gib;cpu,*")
    assert executor.validate(workflow)[0]
    executor.execute(workflow)
    failure = executor.failure
    assert failure is not None and failure["exception_type"].endswith("AllocationError")
    _, quoted, mark, *_ = failure["exception_message"].splitlines()
    assert quoted.strip() == "npu:0,2gb;npu:1,2gib;cpu,*"
    assert quoted[mark.index("^") :].startswith("gib") and mark.strip() == "^^^"


def test_a_split_that_can_never_fit_is_refused_at_the_loader(comfyui: ComfyUI, executor: Executor) -> None:
    comfyui.machine.configure((4 << 20, 1 << 20, 1 << 20))
    executor.execute(_workflow(compute_device="npu:0", expert_mode_allocations="npu:0,1mb;npu:1,3mb;cpu,*"))
    failure = executor.failure
    assert failure is not None and failure["node_id"] == "load" and "npu:1" in failure["exception_message"]


def test_an_ordinary_input_is_still_checked(executor: Executor) -> None:
    valid, errors = executor.validate(_workflow("UNETLoaderMultiGPU", unet_name="absent.safetensors", device="npu:1"))
    assert not valid
    assert [error["type"] for error in errors["load"]["errors"]] == ["value_not_in_list"]


def test_an_old_workflow_without_our_newest_inputs_runs(executor: Executor) -> None:
    workflow = _workflow(
        compute_device="npu:1", virtual_vram_gb=0.001, donor_device="cpu", expert_mode_allocations="", eject_models=True
    )
    assert executor.validate(workflow) == (True, {})
    executor.execute(workflow)
    assert executor.failure is None
    (shown,) = executor.page.said("executed")
    assert shown["output"] == {"device": ["npu:1"]}


CHANGES: list[dict[str, Any]] = [
    {"compute_device": "npu:2"},
    {"virtual_vram_gb": 2.0},
    {"donor_device": "npu:2"},
    {"expert_mode_allocations": "npu:1,50%;cpu,50%"},
    {"keep_loaded": True},
    {"high_precision_loras": False},
    {"strategy": "contiguous"},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_a_node_runs_again_when_its_placement_changes_and_only_then(executor: Executor, change: dict[str, Any]) -> None:
    placing = {"compute_device": "npu:1", "virtual_vram_gb": 1.0, "donor_device": "cpu"}
    assert executor.execute(_workflow(**placing)) == set()
    assert "load" in executor.execute(_workflow(**placing))
    assert "load" not in executor.execute(_workflow(**placing | change))
    assert executor.failure is None
