"""A machine's speeds: measured as they are, kept for that machine, and never in the way of starting."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from multigpu.multigpu_core.devices import (
    HardwareProfile,
    LinkSpeed,
    Measured,
    ProfileError,
    default_registry,
    known_profile,
    load_profile,
    measure_profile,
    profile_changed_ns,
    profile_file,
    published_profile,
    save_profile,
)
from multigpu.testing import ClockSettings, SimulatedMachine

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
    monkeypatch.setattr("multigpu.multigpu_core.devices.speeds.measure.LARGE_SIDE", 128)
    monkeypatch.setattr("multigpu.multigpu_core.devices.speeds.measure.COPY_BYTES", 4 * 1024**2)
    monkeypatch.setattr("multigpu.multigpu_core.devices.speeds.measure.MOST_REPEATS", 10)


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


def _unreadable(kind: str, file: Path) -> None:
    contents = {
        "nested deeply": b"[" * 100_000,
        "a number of 400 digits": b'{"profile": {"links": {"a > b": [' + b"9" * 400 + b", 1, 1]}}}",
        "not UTF-8": b"\xff\xfe{}",
        "cut short": b'{"machine": {"dev',
        "empty": b"",
        "another structure": b'{"profile": [], "machine": 3}',
        "large": b" " * (1 << 21),
    }
    if kind in contents:
        file.write_bytes(contents[kind])
    elif kind == "a folder":
        file.mkdir()
    elif kind == "a pipe":
        os.mkfifo(file)
    elif kind == "a link to itself":
        file.symlink_to(file)


UNREADABLE = (
    "nested deeply", "a number of 400 digits", "not UTF-8", "cut short", "empty", "another structure", "large",
    "a folder", "a pipe", "a link to itself",
)  # fmt: skip


def _loaded_with_one_warning(file: Path | None) -> None:
    with structlog.testing.capture_logs() as logs:
        assert known_profile(default_registry(), file) == published_profile(default_registry())
    assert [entry["event"] for entry in logs] == ["profile_unreadable"]
    assert len(logs[0]["message"]) < 1000


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_file_that_cannot_be_read_counts_as_none_and_is_logged_once(tmp_path: Path, kind: str) -> None:
    _unreadable(kind, tmp_path / "profile.json")
    _loaded_with_one_warning(tmp_path / "profile.json")


@pytest.mark.parametrize("name", ["n" * 300, "a\0b"])
def test_a_name_that_no_file_has_counts_as_none_and_is_logged_once(tmp_path: Path, name: str) -> None:
    _loaded_with_one_warning(tmp_path / name)
    assert profile_changed_ns(tmp_path / name) is None


def test_a_closed_folder_counts_as_none_and_is_logged_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object) -> bytes:
        raise PermissionError(13, "Permission denied")  # the tests may run as root, for whom no folder is closed

    monkeypatch.setattr("multigpu.multigpu_core.devices.speeds.profile_cache.read_bounded", closed)
    _loaded_with_one_warning(tmp_path / "profile.json")


def test_a_driver_that_fails_while_devices_are_compared_counts_as_no_profile(
    machine: SimulatedMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = save_profile(PROFILE, default_registry(), tmp_path / "profile.json")

    def broken(*_: object) -> None:
        raise RuntimeError("the driver is gone")

    monkeypatch.setattr("multigpu.multigpu_core.devices.speeds.profile_cache.machine_identity", broken)
    _loaded_with_one_warning(file)


def _without_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("MULTIGPU_PROFILE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)


def test_without_a_home_folder_there_is_no_profile_and_the_way_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    _without_home(monkeypatch)
    _loaded_with_one_warning(None)
    assert profile_changed_ns() is None
    with pytest.raises(ProfileError, match="set MULTIGPU_PROFILE to"):
        save_profile(PROFILE, default_registry())


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="the variable is one of Linux")
def test_the_cache_folder_of_the_environment_needs_no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _without_home(monkeypatch)
    assert profile_file({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "multigpu" / "profile.json"


def test_a_profile_that_cannot_be_saved_leaves_the_old_one(
    machine: SimulatedMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = default_registry()
    file = save_profile(PROFILE, registry, tmp_path / "profile.json")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_profile(HardwareProfile({}, {}), registry, file)
    assert load_profile(registry, file) == PROFILE
    assert list(tmp_path.iterdir()) == [file]


def test_a_profile_is_not_saved_through_a_link(machine: SimulatedMachine, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "profile.json").symlink_to(tmp_path / "precious")
    save_profile(PROFILE, default_registry(), tmp_path / "profile.json")
    assert (tmp_path / "precious").read_text() == "precious"
