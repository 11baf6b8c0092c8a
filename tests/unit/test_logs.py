"""Log lines: a sentence for people, a line of JSON for programs, and a page that lists every event."""

from __future__ import annotations

import ast
import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from multigpu.multigpu_core.logs import NAME, LogFile, configure_logging

ROOT = Path(__file__).parents[2]
LEVELS = ("debug", "info", "warning", "error", "exception")
ROW = re.compile(r"^\| `(?P<event>\w+)` \| (?P<level>\w+) \|", re.MULTILINE)


@pytest.fixture(autouse=True)
def own_set_up() -> Iterator[None]:
    structlog.reset_defaults()
    yield
    configure_logging()
    structlog.reset_defaults()


@pytest.fixture
def log() -> Any:
    return structlog.get_logger(NAME)


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_the_console_shows_the_sentence_and_no_data(log: Any, caplog: pytest.LogCaptureFixture) -> None:
    configure_logging()
    log.info("split_loaded", message="Flux: 100 % of 2 blocks placed", model="Flux", bytes_by_device={"cuda:0": 5})
    assert [record.getMessage() for record in caplog.records] == ["[MultiGPU] Flux: 100 % of 2 blocks placed"]


def test_the_file_has_a_line_of_json_with_all_data_and_the_prompt(log: Any, tmp_path: Path) -> None:
    file = tmp_path / "logs" / "multigpu.jsonl"
    prompts = iter(["abc", None])
    configure_logging("info", LogFile(file, 10_000, 1), lambda: next(prompts))
    log.info("split_loaded", message="Flux …", model="Flux", bytes_by_device={"cuda:0": 5}, milliseconds=1.5)
    log.warning("rival_found", message="two of them")
    log.debug("unseen", message="too fine")
    first, second = _lines(file)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", first.pop("time"))
    assert first == {
        "level": "info", "event": "split_loaded", "message": "Flux …", "model": "Flux",
        "bytes_by_device": {"cuda:0": 5}, "milliseconds": 1.5, "prompt_id": "abc",
    }  # fmt: skip
    assert second["level"] == "warning" and "prompt_id" not in second


def test_an_exception_is_in_both(log: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    configure_logging("info", LogFile(tmp_path / "log", 10_000, 1))
    try:
        raise ZeroDivisionError("by nothing")
    except ZeroDivisionError:
        log.exception("late_nodes_failed", message="Nodes are missing")
    assert caplog.text.count("ZeroDivisionError: by nothing") == 1
    (line,) = _lines(tmp_path / "log")
    assert line["level"] == "error" and "ZeroDivisionError: by nothing" in line["exception"]


def test_a_full_file_makes_room_and_the_last_ones_are_kept(log: Any, tmp_path: Path) -> None:
    file = tmp_path / "log"
    configure_logging("info", LogFile(file, 10_000, 2))
    for number in range(300):
        log.info("split_loaded", message="x" * 100, number=number)
    kept = sorted(tmp_path.iterdir())
    assert [each.name for each in kept] == ["log", "log.1", "log.2"]
    assert all(each.stat().st_size <= 10_000 for each in kept)
    assert _lines(file)[-1]["number"] == 299


def test_configuring_again_writes_to_the_new_file_alone(log: Any, tmp_path: Path) -> None:
    for name in ("one", "two"):
        configure_logging("info", LogFile(tmp_path / name, 10_000, 1))
    log.info("split_loaded", message="once")
    assert not (tmp_path / "one").read_text() and len(_lines(tmp_path / "two")) == 1


def test_nobody_else_s_structlog_is_touched(log: Any, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Any] = []
    structlog.configure(processors=[lambda logger, method, event: seen.append(dict(event)) or str(event)])
    configure_logging()
    log.info("split_loaded", message="theirs")
    assert seen == [{"event": "split_loaded", "message": "theirs"}]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("over\rwritten", r"over\rwritten"),
        ("\x9b2J", r"\x9b2J"),
        ("gpj.\u202eexe", r"gpj.\u202eexe"),
        ("a\u2028[MultiGPU] b", r"a\u2028[MultiGPU] b"),
        ("undecodable \udcff", r"undecodable \udcff"),
        ("Größe\t🦆", "Größe\t🦆"),
    ],
)
def test_control_characters_in_names_are_written_out_on_the_console(
    log: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path, name: str, shown: str
) -> None:
    configure_logging("info", LogFile(tmp_path / "log", 10_000, 1))
    log.info("split_loaded", message=f"{name}: placed", model=name)
    assert [record.getMessage() for record in caplog.records] == [f"[MultiGPU] {shown}: placed"]
    (line,) = (tmp_path / "log").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["model"] == name
    assert not {"\x1b", "\x9b", "\u202e"} & set(line)


def test_a_line_feed_in_a_name_makes_no_line_of_its_own(log: Any, caplog: pytest.LogCaptureFixture) -> None:
    configure_logging()
    log.info("split_loaded", message="evil\n[MultiGPU] All is well")
    log.error("plugin_failed", message="failed", exception="Traceback\n[MultiGPU] All is well")
    lines = [line for record in caplog.records for line in record.getMessage().splitlines()]
    assert [line for line in lines if not line.startswith(" ")] == ["[MultiGPU] evil", "[MultiGPU] failed"]


class _FullDisk:
    """Stands between a log file and its disk, which takes `room` more characters."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room: int | None = None
        monkeypatch.setattr(logging.FileHandler, "_open", self._opened(logging.FileHandler._open))

    def _opened(self, original: Callable[[logging.FileHandler], Any]) -> Callable[[logging.FileHandler], Any]:
        def opened(handler: logging.FileHandler) -> Any:
            stream = original(handler)
            write = stream.write

            def limited(text: str) -> int:
                if self.room is None:
                    return int(write(text))
                write(text[: self.room])
                stream.flush()
                raise OSError(28, "No space left on device")

            return _Stream(stream, limited)

        return opened


class _Stream:
    """A stream with another `write`."""

    def __init__(self, stream: Any, write: Callable[[str], int]) -> None:
        self._stream = stream
        self.write = write

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def test_a_full_disk_is_reported_once_and_once_when_there_is_room_again(
    log: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk = _FullDisk(monkeypatch)
    configure_logging("info", LogFile(tmp_path / "log", 10_000, 1))
    for number, room in enumerate((None, 9, 0, 0, None, None)):
        disk.room = room
        log.info("split_loaded", message=f"event {number}")
    console = [record.getMessage() for record in caplog.records]
    (failed,) = [line for line in console if "cannot be written" in line]
    assert "[Errno 28] No space left on device" in failed
    assert len([line for line in console if "can be written again" in line]) == 1 and len(console) == 8
    assert "Traceback" not in capfd.readouterr().err

    lines = (tmp_path / "log").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line)["event"] for line in lines if line.endswith("}")]
    assert events == ["split_loaded", "split_loaded", "log_file_works_again", "split_loaded"], (
        "the line that was cut off spoils no other"
    )


def _events() -> Iterator[tuple[str, str, Path]]:
    """Every event that the code logs: its name and level, and where."""
    for room in ("multigpu_core", "integrations"):
        for file in ROOT.joinpath(room).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                function = node.func if isinstance(node, ast.Call) else None
                if not isinstance(function, ast.Attribute) or function.attr not in LEVELS:
                    continue
                if isinstance(function.value, ast.Name) and function.value.id == "log":
                    assert isinstance(node, ast.Call)
                    name = ast.literal_eval(node.args[0])
                    assert any(keyword.arg == "message" for keyword in node.keywords), (file, name)
                    yield name, function.attr.replace("exception", "error"), file


def test_the_page_on_logging_lists_every_event_with_its_level() -> None:
    logged = {(name, level) for name, level, _ in _events()}
    page = ROOT.joinpath("docs", "logging.md").read_text(encoding="utf-8")
    assert {(match["event"], match["level"]) for match in ROW.finditer(page)} == logged
    assert len(logged) > 15
