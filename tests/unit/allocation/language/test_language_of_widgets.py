"""The widgets of a split node make one request together."""

from __future__ import annotations

import pytest

from multigpu.multigpu_core.allocation import (
    AllocationError,
    AllocationMode,
    AllocationRequest,
    AllocationWidgets,
    Strategy,
    parse_expert,
    request_from_widgets,
)

DEVICES = ("cpu", "cuda:0", "cuda:1")
GIB = 1 << 30


def test_an_expert_string_wins_over_virtual_vram() -> None:
    widgets = AllocationWidgets("cuda:0", 4.0, "cpu", "cuda:1,50%;cpu,50%", Strategy.CONTIGUOUS)
    expected = parse_expert(widgets.expert, compute_device="cuda:0", known=DEVICES, strategy=Strategy.CONTIGUOUS)
    assert request_from_widgets(widgets, DEVICES) == expected


def test_auto_as_expert_string_is_auto() -> None:
    assert request_from_widgets(AllocationWidgets("cuda:0", 4.0, expert="auto"), DEVICES).mode is AllocationMode.AUTO


def test_virtual_vram_is_read_as_typed_and_not_as_the_nearest_float() -> None:
    request = request_from_widgets(AllocationWidgets("cuda:0", 0.1, "cpu"), DEVICES)
    assert request == AllocationRequest(
        "cuda:0", AllocationMode.VIRTUAL_VRAM, virtual_vram_bytes=GIB // 10, donors=("cpu",)
    )


@pytest.mark.parametrize("donors", ["cuda:1,cpu", "cuda:1; cpu", ("cuda:1", "cpu"), ["CUDA:1", "cpu"]])
def test_several_donors_can_be_a_list_or_one_string(donors: str | list[str]) -> None:
    assert request_from_widgets(AllocationWidgets("cuda:0", 4.0, donors), DEVICES).donors == ("cuda:1", "cpu")


@pytest.mark.parametrize(
    "widgets",
    [
        AllocationWidgets("cuda:0", 0.0, "cpu"),
        AllocationWidgets("cuda:0", 0.0, "cpu", "   "),
        AllocationWidgets("cuda:0", 4.0, "cuda:0"),
    ],
)
def test_with_nothing_to_offload_it_is_an_ordinary_load(widgets: AllocationWidgets) -> None:
    assert request_from_widgets(widgets, DEVICES) == AllocationRequest("cuda:0")


@pytest.mark.parametrize(
    "widgets",
    [
        AllocationWidgets("cuda:0", -1.0),
        AllocationWidgets("cuda:0", float("nan")),
        AllocationWidgets("cuda:0", float("inf")),
        AllocationWidgets("cuda:0", 1e300),
        AllocationWidgets("cuda:7", 4.0),
        AllocationWidgets("cuda:0", 4.0, "cuda:7"),
        AllocationWidgets("cuda:0", 4.0, "cpu,cpu"),
        AllocationWidgets("cuda:0", 4.0, ""),
        AllocationWidgets("cuda:0", 4.0, "cpu", ";"),
    ],
)
def test_a_wrong_widget_is_refused(widgets: AllocationWidgets) -> None:
    with pytest.raises(AllocationError):
        request_from_widgets(widgets, DEVICES)


@pytest.mark.parametrize(
    ("widgets", "told"),
    [
        (AllocationWidgets("cuda:7", 4.0), "Compute device 'cuda:7':"),
        (AllocationWidgets("cuda:7", expert="cuda:0,50%;cpu,*"), "Compute device 'cuda:7':"),
        (AllocationWidgets("cuda:0", -1.0), "Virtual VRAM '-1.0':"),
        (AllocationWidgets("cuda:0", 4.0, "cuda:7"), "Donor device 'cuda:7':"),
        (AllocationWidgets("cuda:0", expert="cuda:7,50%"), "Allocation string 'cuda:7,50%':"),
    ],
)
def test_a_refusal_begins_with_the_widget_that_is_wrong(widgets: AllocationWidgets, told: str) -> None:
    with pytest.raises(AllocationError) as refused:
        request_from_widgets(widgets, DEVICES)
    assert str(refused.value).startswith(told)
