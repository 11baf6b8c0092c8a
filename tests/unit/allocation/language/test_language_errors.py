"""A wrong allocation string is answered with its place, what is wrong and what would be right."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multigpu.multigpu_core.allocation import AllocationError, parse_expert, parse_full
from multigpu.multigpu_core.devices import DeviceError

DEVICES = ("cpu", "cuda:0", "cuda:1", "mps")


def fault(text: str) -> AllocationError:
    with pytest.raises(AllocationError) as caught:
        parse_expert(text, compute_device="cuda:0", known=DEVICES)
    return caught.value


@pytest.mark.parametrize(
    ("text", "marked", "reason"),
    [
        ("cuda:0,1gb;cuda:7,*", "cuda:7", "no device 'cuda:7'"),
        ("coda:0,1gb", "coda:0", "no device 'coda:0'"),
        ("cuda:0,1gb;cuda:0,2gb", "cuda:0", "twice"),
        ("cuda:0,*;cpu,*", "*", "Two devices"),
        ("cuda:0,1gb*;cpu,*", "*", "Two devices"),
        ("cuda:0 2gb;cpu,*", "cuda:0 2gb", "comma is missing"),
        ("cuda:0;cpu,*", "cuda:0", "comma is missing"),
        ("cuda:0,2gb,cpu,*", "cpu", "second comma"),
        ("cuda:0,2,5gb", "5gb", "second comma"),
        (",2gb", ",2gb", "device before the comma"),
        ("cuda:0,;cpu,*", "cuda:0,", "amount after the comma"),
        ("cuda:0,2gib", "gib", "not a unit"),
        ("cuda:0,2 apples", "apples", "not a unit"),
        ("cuda:0,-1gb", "-1gb", "negative"),
        ("cuda:0,-0.5", "-0.5", "negative"),
        ("cuda:0,nan", "nan", "finite"),
        ("cuda:0,NaN%", "NaN%", "finite"),
        ("cuda:0,inf", "inf", "finite"),
        ("cuda:0,-infinity", "-infinity", "finite"),
        ("cuda:0,1e9b", "1e9b", "not an amount"),
        ("cuda:0,1..5gb", "1..5gb", "not an amount"),
        ("cuda:0,5gb**", "5gb**", "not an amount"),
        ("cuda:0,%", "%", "not an amount"),
        ("cuda:0,1/0", "1/0", "divisor is zero"),
        ("cuda:0,0%;cpu,0%", "cuda:0,0%;cpu,0%", "add up to nothing"),
        ("cuda:0,0gb", "cuda:0,0gb", "add up to nothing"),
        ("cuda:0,0.0;cpu,0", "cuda:0,0.0;cpu,0", "add up to nothing"),
        ("cuda:0,25%;cpu,1gb", "1gb", "mixes"),
        ("cuda:0,0.25;cpu,75%", "75%", "mixes"),
        ("cuda:0,1.5", "1.5", "more than all"),
        ("cuda:0,80%;mps,40%;cpu,*", "cuda:0,80%;mps,40%;cpu,*", "120 %"),
        (";", ";", "separators"),
        (" ; ;; ", "; ;;", "separators"),
        (",", ",", "device before the comma"),
        ("cuda:0,9999999999tb", "9999999999tb", "more memory than"),
        ("cuda:0," + "9" * 65 + "%", "9" * 65, "65 characters"),
        ("cuda:0," + "9" * 3000 + "%", "9" * 3000 + "%", "3001 characters"),
        ("cuda:0,1" + " " * 100 + "gb", "1" + " " * 100 + "gb", "103 characters"),
        ("cuda:" + "9" * 96 + ",1gb", "cuda:" + "9" * 96, "101 characters"),
        ("cuda:" + "9" * 90 + ",1gb", "cuda:" + "9" * 90, "no device"),
        ("auto;cpu,*", "auto", "comma is missing"),
    ],
)
def test_a_wrong_string_is_marked_where_it_is_wrong(text: str, marked: str, reason: str) -> None:
    error = fault(text)
    start, end = error.position
    assert error.text == text.strip() or error.text == text
    assert error.text[start:end] == marked
    assert reason in error.reason
    assert error.suggestion


def test_the_message_has_the_string_and_carets_under_the_fault() -> None:
    lines = str(fault("cuda:0,2.5gb;cuda:9,3gb;cpu,*")).splitlines()
    assert lines[1] == "    cuda:0,2.5gb;cuda:9,3gb;cpu,*"
    assert lines[2] == "                 ^^^^^^"
    assert lines[3:] == [
        "There is no device 'cuda:9'. Available devices: cpu, cuda:0, cuda:1, mps.",
        "Did you mean 'cuda:1'?",
    ]


def test_an_empty_entry_between_two_devices_is_marked() -> None:
    error = fault("cuda:0,1gb;;cpu,*")
    assert error.position == (11, 11)
    assert "no device here" in error.reason


def test_the_nearest_unit_is_offered() -> None:
    assert fault("cpu,2gib").suggestion == "Did you mean 2gb?"


def test_what_the_registry_knows_about_a_hidden_device_reaches_the_user() -> None:
    def registry(name: str) -> str:
        raise DeviceError(name, ("cpu",), "cpu", ("CUDA_VISIBLE_DEVICES='' hides devices: unset it.",))

    with pytest.raises(AllocationError) as caught:
        parse_expert("cuda:1,1gb", compute_device="cpu", known=lambda name: "cpu" if name == "cpu" else registry(name))
    assert "CUDA_VISIBLE_DEVICES" in str(caught.value)
    assert "Did you mean 'cpu'?" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "marked"),
    [
        ("cuda:0,1gb", "cuda:0,1gb"),
        ("a#b#c", "a#b#c"),
        ("#cuda:0;4", "cuda:0;4"),
        ("#cuda:0;-4;cpu", "-4"),
        ("#cuda:0;nan;cpu", "nan"),
        ("#cuda:0;4;cpu,cpu", "cpu"),
        ("#cuda:0;4;cpu,", ""),
        ("#cuda:0;4;", ""),
        ("#cuda:0;99999999999999;cpu", "99999999999999"),
        ("#cuda:5", "cuda:5"),
        ("cpu,4q#cuda:0", "q"),
    ],
)
def test_a_wrong_full_form_is_marked_where_it_is_wrong(text: str, marked: str) -> None:
    with pytest.raises(AllocationError) as caught:
        parse_full(text, known=DEVICES)
    start, end = caught.value.position
    assert text[start:end] == marked
    assert caught.value.suggestion


@given(st.text(alphabet="cpuda:01,;.%*gbm#-ntf \n/", max_size=30))
def test_any_text_is_either_read_or_refused_with_a_place_in_it(text: str) -> None:
    try:
        parse_expert(text, compute_device="cuda:0", known=DEVICES)
    except AllocationError as error:
        start, end = error.position
        assert 0 <= start <= end <= len(text)
        assert error.reason in str(error)
