"""The allocation language: what users write is read exactly, and written back."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multigpu.multigpu_core.allocation import (
    AllocationMode,
    AllocationRequest,
    Share,
    format_expert,
    format_request,
    parse_expert,
    parse_full,
)
from multigpu.multigpu_core.strategies.built_in import built_in_strategies

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
DEVICES = ("cpu", "cuda:0", "cuda:1", "mps", "mlu:0", "directml:0", "xpu:0", "npu:0")


def parse(text: str) -> AllocationRequest:
    return parse_expert(text, compute_device="cuda:0", known=DEVICES)


def shares(text: str) -> dict[str, Fraction]:
    return {share.device: share.amount for share in parse(text).shares}


def test_the_example_in_bytes_means_what_it_says() -> None:
    request = parse("cuda:0,2.5gb;cuda:1,3g;cpu,*")
    assert request.mode is AllocationMode.BYTES
    assert request.shares == (
        Share("cuda:0", Fraction(5 * GIB, 2)),
        Share("cuda:1", Fraction(3 * GIB)),
        Share("cpu", Fraction(0), takes_rest=True),
    )


@pytest.mark.parametrize(
    ("amount", "size"),
    [
        ("7b", 7),
        ("7B", 7),
        ("1k", KIB),
        ("2kb", 2 * KIB),
        ("500mb", 500 * MIB),
        ("500M", 500 * MIB),
        (".5g", GIB // 2),
        ("1.GB", GIB),
        ("1t", TIB),
        ("0.5Tb", TIB // 2),
        ("1/3kb", 341),
    ],
)
def test_every_unit_counts_in_powers_of_1024(amount: str, size: int) -> None:
    assert shares(f"cpu,{amount}") == {"cpu": size}


def test_decimals_are_exact_where_floats_are_not() -> None:
    assert shares("cpu,0.21")["cpu"] == Fraction(21, 100)
    assert shares("cpu,8388607.999999999gb")["cpu"] == int(Fraction("8388607.999999999") * GIB)


def test_a_star_after_an_amount_takes_that_amount_and_the_rest() -> None:
    assert parse("cuda:0,1gb;cpu,5gb*").shares[1] == Share("cpu", Fraction(5 * GIB), takes_rest=True)


@pytest.mark.parametrize("device", ["mps", "mlu:0", "directml:0", "cpu", "xpu:0", "npu:0"])
@pytest.mark.parametrize(
    ("amount", "mode"),
    [("1gb", AllocationMode.BYTES), ("25%", AllocationMode.RATIO), ("0.25", AllocationMode.FRACTION)],
)
def test_letters_in_device_names_never_decide_the_mode(device: str, amount: str, mode: AllocationMode) -> None:
    assert parse(f"{device},{amount}").mode is mode


def test_white_space_case_and_a_last_semicolon_do_not_matter() -> None:
    assert parse("  CUDA:0 , 2.5 GB ;\tcuda : 1, 25 MB;\n CPU , 5gb * ; ") == parse("cuda:0,2.5gb;cuda:1,25mb;cpu,5gb*")


def test_signs_of_an_east_asian_keyboard_are_read_as_their_ascii_signs() -> None:
    assert parse("cuda：0，25％；cpu，75％") == parse("cuda:0,25%;cpu,75%")


def test_cuda_without_a_number_is_the_first_card() -> None:
    assert parse("cuda,1gb") == parse("cuda:0,1gb")


def test_an_empty_string_is_an_ordinary_load_and_auto_is_auto() -> None:
    assert parse("  ").mode is AllocationMode.NONE
    assert parse(" Auto ").mode is AllocationMode.AUTO


def test_a_star_alone_puts_the_whole_model_there() -> None:
    assert parse("cuda:1,*").shares == (Share("cuda:1", Fraction(0), takes_rest=True),)


def test_the_full_form_of_saved_workflows_is_read() -> None:
    request = parse_full("#cuda:0;4.0;cuda:1,cpu", known=DEVICES)
    assert request == AllocationRequest(
        "cuda:0", AllocationMode.VIRTUAL_VRAM, virtual_vram_bytes=4 * GIB, donors=("cuda:1", "cpu")
    )
    assert parse_full("cuda:1,4gb;cpu,*#cuda:0", known=DEVICES) == parse("cuda:1,4gb;cpu,*")
    assert parse_full("#cuda:1", known=DEVICES) == AllocationRequest("cuda:1")


def test_in_the_full_form_an_expert_string_wins_over_virtual_vram() -> None:
    assert parse_full("cuda:1,50%;cpu,50%#cuda:0;4.0;cpu", known=DEVICES) == parse("cuda:1,50%;cpu,50%")


def test_offloading_nothing_or_to_the_compute_device_itself_is_an_ordinary_load() -> None:
    assert parse_full("#cpu;4.0;cpu", known=DEVICES) == AllocationRequest("cpu")
    assert parse_full("#cuda:0;0;cpu", known=DEVICES) == AllocationRequest("cuda:0")


def test_byte_shares_are_written_in_the_unit_that_suits_them() -> None:
    assert format_expert(parse("cuda:0,2560mb;cuda:1,3g;mps,1025b;cpu,0gb*")) == (
        "cuda:0,2.5gb;cuda:1,3gb;mps,1025b;cpu,*"
    )


MODES_WITH_SHARES = (AllocationMode.BYTES, AllocationMode.RATIO, AllocationMode.FRACTION)
AMOUNTS = {
    AllocationMode.BYTES: st.integers(0, 1 << 50).map(Fraction),
    AllocationMode.RATIO: st.fractions(0, 12, max_denominator=10**9),
    AllocationMode.FRACTION: st.fractions(0, 1, max_denominator=10**9),
}


@st.composite
def requests(draw: st.DrawFn) -> AllocationRequest:
    compute = draw(st.sampled_from(DEVICES))
    strategy = draw(st.sampled_from(built_in_strategies().known))
    mode = draw(st.sampled_from(AllocationMode))
    if mode is AllocationMode.VIRTUAL_VRAM:
        others = [name for name in DEVICES if name != compute]
        donors = draw(st.lists(st.sampled_from(others), min_size=1, unique=True))
        size = draw(st.integers(1, 1 << 50))
        return AllocationRequest(compute, mode, virtual_vram_bytes=size, donors=tuple(donors), strategy=strategy)
    if mode not in MODES_WITH_SHARES:
        return AllocationRequest(compute, mode, strategy=strategy)
    names = draw(st.lists(st.sampled_from(DEVICES), min_size=1, unique=True))
    amounts = [draw(AMOUNTS[mode]) for _ in names]
    star = draw(st.sampled_from([None, *names])) if sum(amounts) else names[0]
    parts = tuple(Share(name, amount, name == star) for name, amount in zip(names, amounts, strict=True))
    return AllocationRequest(compute, mode, shares=parts, strategy=strategy)


@given(requests())
def test_every_request_that_is_written_is_read_back_the_same(request: AllocationRequest) -> None:
    assert parse_full(format_request(request), known=DEVICES, strategy=request.strategy) == request
    if request.mode is not AllocationMode.VIRTUAL_VRAM:
        expert = format_expert(request)
        again = parse_expert(expert, compute_device=request.compute_device, known=DEVICES, strategy=request.strategy)
        assert again == request


@given(requests())
def test_what_is_written_is_the_shortest_settled_form(request: AllocationRequest) -> None:
    text = format_request(request)
    assert format_request(parse_full(text, known=DEVICES)) == text
