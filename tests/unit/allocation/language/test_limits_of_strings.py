"""Strings of any length cost little: their length is bounded, and within the bound the work is in proportion."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from multigpu.multigpu_core.allocation import AllocationError, AllocationWidgets, parse_expert, parse_full
from multigpu.multigpu_core.allocation.language.parser import MAX_AMOUNT_CHARACTERS, MAX_CHARACTERS
from multigpu.multigpu_core.allocation.language.source_span import SourceSpan
from multigpu.multigpu_core.allocation.language.widgets import request_from_widgets
from multigpu.multigpu_core.devices import DeviceError
from multigpu.multigpu_core.devices.naming import nearest_name, read_spelling

from ...conftest import Steps

KNOWN = ("cpu", *(f"cuda:{index}" for index in range(400)))


def shares(count: int) -> str:
    return ";".join(f"cuda:{index},1b" for index in range(count))


def test_twice_the_shares_cost_twice_the_steps(steps_of: Steps) -> None:
    one, two = (steps_of(lambda n=n: parse_expert(shares(n), compute_device="cpu", known=KNOWN)) for n in (100, 200))
    assert two < 2.2 * one


class CountingText(str):
    """A text that counts the characters that are copied out of it."""

    copied = 0

    def __getitem__(self, key: object) -> str:  # type: ignore[override]
        part = str.__getitem__(self, key)  # type: ignore[index]
        CountingText.copied += len(part)
        return part


@pytest.mark.parametrize("count", [1000, 2000])
def test_splitting_copies_each_character_a_few_times_only(count: int) -> None:
    text = CountingText("a," * count)
    CountingText.copied = 0
    SourceSpan(text, 0, len(text)).split(",")
    assert CountingText.copied <= 3 * len(text)


def refused(text: str) -> AllocationError:
    with pytest.raises(AllocationError) as caught:
        parse_expert(text, compute_device="cpu", known=KNOWN)
    return caught.value


def test_a_string_may_be_so_long_and_no_longer() -> None:
    whole = shares(3)
    longest = whole + " " * (MAX_CHARACTERS - len(whole) - 1) + ";"
    assert len(longest) == MAX_CHARACTERS
    assert len(parse_expert(longest, compute_device="cpu", known=KNOWN).shares) == 3
    assert "4001 characters" in refused(" ;".join([longest[:-1], ""])).reason


def test_an_amount_may_be_so_long_and_no_longer() -> None:
    amount = "1" + " " * (MAX_AMOUNT_CHARACTERS - 3) + "gb"
    assert parse_expert(f"cuda:0,{amount}", compute_device="cpu", known=KNOWN).shares[0].amount == 2**30
    assert "101 characters" in refused(f"cuda:0,{amount[0]} {amount[1:]}").reason


ENTRIES: list[Callable[[str], object]] = [
    lambda text: parse_expert(text, compute_device="cpu", known=KNOWN),
    lambda text: parse_expert("cpu,*", compute_device=text, known=KNOWN),
    lambda text: parse_full(f"{text}#cpu", known=KNOWN),
    lambda text: parse_full(f"#cpu;{text};cpu", known=KNOWN),
    lambda text: parse_full(f"#cpu;1;{text}", known=KNOWN),
    lambda text: request_from_widgets(AllocationWidgets("cpu", 1.0, text), KNOWN),
]


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize(
    "text", ["9" * 5000, "cuda:" + "9" * 5000, "cuda:0," + "9" * 100_000, "a," * 50_000, ";" * 10**6]
)
def test_every_door_refuses_what_is_too_long(entry: Callable[[str], object], text: str) -> None:
    with pytest.raises((AllocationError, DeviceError)):
        entry(text)


def test_no_index_is_too_long_to_be_refused() -> None:
    assert read_spelling("cuda:" + "9" * 5000) is None
    assert read_spelling("cuda:000000001") == ("cuda", 1)
    assert nearest_name("x" * 10**6, KNOWN) is None
