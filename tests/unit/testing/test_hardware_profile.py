"""A machine's speeds: measured as they are, kept for that machine, and never in the way of starting."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from multigpu.multigpu_core.devices import (
    HardwareProfile,
    LinkSpeed,
    Measured,
    default_registry,
    known_profile,
    load_profile,
    measure_profile,
    profile_file,
    published_profile,
    save_profile,
)
from multigpu.multigpu_core.testing import ClockSettings, SimulatedMachine

HOST = LinkSpeed(2e9, 1e9, 1e-3)
PROFILE = HardwareProfile(
    {(a, b): HOST for card in ("npu:0", "npu:1") for a, b in (("cpu", card), (card, "cpu"))},
    {
        card: {"float32": rate, "float16": 2 * rate, "bfloat16": 2 * rate}
        for card, rate in (("npu:0", 1e12), ("npu:1", 1e11))
    },
    is_measured=True,
)


@pytest.fixture
def machine(simulated_machine: SimulatedMachine) -> Iterator[SimulatedMachine]:
    simulated_machine.clock.start(ClockSettings(PROFILE))
    yield simulated_machine
    simulated_machine.clock.stop()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small matrices and copies, and few of them: the clock tells the time, whatever is really done."""
    monkeypatch.setattr("multigpu.multigpu_core.devices.measure.LARGE_SIDE", 128)
    monkeypatch.setattr("multigpu.multigpu_core.devices.measure.COPY_BYTES", 4 * 1024**2)
    monkeypatch.setattr("multigpu.multigpu_core.devices.measure.MOST_REPEATS", 10)


def test_what_is_measured_is_what_the_links_and_devices_do(machine: SimulatedMachine, small: None) -> None:
    profile = measure_profile(default_registry(), seconds=2)
    for card in ("npu:0", "npu:1"):
        there = profile.links["cpu", card]
        assert there.bytes_per_second == pytest.approx(2e9, rel=0.05)
        assert there.pageable_bytes_per_second < 1.01e9
        assert there.latency_seconds == pytest.approx(1e-3, rel=0.05)
        assert profile.flops_per_second[card]["float16"] == pytest.approx(PROFILE.flops_per_second[card]["float16"])
    assert profile.links["npu:1", "npu:0"].bytes_per_second == pytest.approx(2e9, rel=0.05), "through the host"


def test_every_measurement_is_told_as_it_is_made(machine: SimulatedMachine, small: None) -> None:
    told: list[Measured] = []
    measure_profile(default_registry(), seconds=1, progress=told.append)
    assert {"cpu to npu:0", "npu:0 to npu:1", "npu:1 in bfloat16"} <= {measured.what for measured in told}
    assert [measured.number for measured in told] == list(range(1, told[0].total + 1))


def test_a_link_that_fails_is_told_and_left_out(
    machine: SimulatedMachine, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(size_bytes: int) -> None:
        raise RuntimeError("the driver is gone")

    monkeypatch.setattr(machine.module, "synchronize", broken)
    told: list[Measured] = []
    profile = measure_profile(default_registry(), seconds=1, progress=told.append)
    assert not profile.links and any("driver is gone" in measured.failure for measured in told)


def test_a_kept_profile_is_found_again(machine: SimulatedMachine, tmp_path: Path) -> None:
    registry = default_registry()
    file = save_profile(PROFILE, registry, tmp_path / "folder" / "profile.json")
    assert load_profile(registry, file) == PROFILE


def test_what_was_not_measured_is_as_published(machine: SimulatedMachine, tmp_path: Path) -> None:
    registry, host = default_registry(), ("cpu", "npu:0")
    measured = HardwareProfile({host: PROFILE.links[host]}, {})
    known = known_profile(registry, save_profile(measured, registry, tmp_path / "profile.json"))
    published = published_profile(registry)
    links = {**published.links, host: PROFILE.links[host]}
    assert known == HardwareProfile(links, published.flops_per_second, is_measured=True)


def test_a_profile_of_other_devices_does_not_count(machine: SimulatedMachine, tmp_path: Path) -> None:
    registry = default_registry()
    file = save_profile(PROFILE, registry, tmp_path / "profile.json")
    machine.configure([10**9] * 3)
    assert load_profile(registry, file) is None


@given(st.one_of(st.text(), st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_broken_file_costs_a_line_and_no_start(
    machine: SimulatedMachine, tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    file = tmp_path_factory.getbasetemp() / "broken.json"
    file.write_bytes(text.encode(errors="surrogatepass"))
    assert known_profile(default_registry(), file) == published_profile(default_registry())


@pytest.mark.parametrize("figure", [0, -1, "fast", None, float("inf"), float("nan")])
def test_a_speed_that_cannot_be_is_not_believed(machine: SimulatedMachine, tmp_path: Path, figure: object) -> None:
    registry = default_registry()
    file = save_profile(PROFILE, registry, tmp_path / "profile.json")
    kept = json.loads(file.read_text())
    kept["profile"]["links"]["cpu > npu:0"][0] = figure
    file.write_text(json.dumps(kept))
    assert load_profile(registry, file) is None


def test_before_anything_is_measured_every_pair_has_a_plausible_speed(machine: SimulatedMachine) -> None:
    machine.peers.add(frozenset(("npu:0", "npu:1")))
    profile = published_profile(default_registry())
    assert profile.links["npu:1", "npu:0"].bytes_per_second > 20e9
    assert profile.links["cpu", "npu:0"].pageable_bytes_per_second < profile.links["cpu", "npu:0"].bytes_per_second
    assert machine.devices[0].peak_bytes == 0


def test_the_file_can_be_named(tmp_path: Path) -> None:
    assert profile_file({"MULTIGPU_PROFILE": str(tmp_path / "p.json")}) == tmp_path / "p.json"
    assert profile_file({"XDG_CACHE_HOME": str(tmp_path), "LOCALAPPDATA": str(tmp_path)}).name == "profile.json"
