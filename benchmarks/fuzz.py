"""Made-up input for everything that reads what users and strangers write: our own errors, quickly, or nothing.

python benchmarks/fuzz.py [--json] [--strings N] [--files N] [--bodies N] [--seed N] [--keep FILE]

Strings are put together from the pieces of their grammar, files are valid ones with mistakes in them. A string that is
taken has to come out the same when it is written and read again, and a model file that is taken has to be one that the
safetensors or gguf library loads. Every exception that is none of ours is counted, and the first of them are shown.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import gguf
import structlog
from pydantic import ValidationError
from records import Record, report
from safetensors import safe_open

import multigpu
from multigpu.multigpu_core.allocation import AllocationWidgets, parse_expert, request_from_widgets
from multigpu.multigpu_core.allocation.formats.header_error import HeaderError
from multigpu.multigpu_core.allocation.inventory.of_file import inventory_of_file
from multigpu.multigpu_core.allocation.language.errors import AllocationError
from multigpu.multigpu_core.allocation.language.parser import format_expert, parse_full
from multigpu.multigpu_core.conformance.file_mutations import damaged, damaged_gguf, damaged_safetensors
from multigpu.multigpu_core.devices import DeviceError, default_registry, load_profile, save_profile
from multigpu.multigpu_core.devices.speeds.published import published_profile
from multigpu.multigpu_core.plugins import name_of_pack, read_configuration

KNOWN = ["cpu", "cuda:0", "cuda:1", "xpu:0"]
SHIPPED = Path(multigpu.__file__).parent / "plugins.toml"
SLOWEST_SECONDS = 1.0
GROWTH_BYTES = 32 << 20

WORDS = [*KNOWN, "CUDA:0", "cuda", "cuda:9", "gpu", "", " ", "auto", "*", "0", "1", "0.5", "50", "-1", "1e400", "nan"]
WORDS += [
    "inf",
    "½",
    "٣",
    "９",
    "%",
    "gb",
    "mb",
    "b",
    "tb",
    "GiB",
    ";",
    ",",
    ":",
    "#",
    "=",
    "\n",
    "\x00",
    "🦆",
    "9" * 400,
    "9" * 5000,
    " " * 3000,
    "a" * 2000,
]
TOML = ["[", "]", "=", '"', "'", "\n", "[[", "{", "}", "true", "1e999", "nan", "0x", "-", ".", "integrations", "memory"]
TOML += ["[" * 2000, "a." * 2000, "{a = " * 500, "9" * 5000, "0x" + "f" * 5000, "#", "'" * 3, ",", "x" * 3000]
TOML += ["logging", "default", "\x00", "é", "[memory]\n", "[integrations.gguf]\n", "level = 3\n", "= =\n", '"""', "inf"]
JSON = [b"{", b"}", b"[", b"]", b",", b":", b'"', b"null", b"-1", b"1e99", b"9" * 400, b"9" * 5000, b"[" * 9999, b"NaN"]
SHOWN_FAILURES = 3


@dataclass(frozen=True)
class Target:
    """Something that reads: `case` makes an input and reads it, raising nothing but `allowed`."""

    name: str
    case: Callable[[random.Random], object]
    allowed: tuple[type[Exception], ...]


def string_targets() -> Iterator[Target]:
    refusals = (AllocationError, DeviceError)
    yield Target("allocation strings", _expert, refusals)
    yield Target("full allocation strings", _full, refusals)
    yield Target("widgets", _widgets, refusals)


def file_targets(folder: Path) -> Iterator[Target]:
    yield Target("plugins.toml", _FileCase(folder / "plugins.toml", _toml, _read_settings), ())
    yield Target(
        "pyproject.toml", _FileCase(folder / "pyproject.toml", _toml, lambda path: name_of_pack(path.parent)), ()
    )
    registry = default_registry()
    kept = save_profile(published_profile(registry), registry, folder / "kept.json").read_bytes()
    profiles = _FileCase(
        folder / "profile.json",
        lambda chance: damaged(chance, kept, JSON),
        lambda path: load_profile(registry, path),
    )
    yield Target("profile.json", profiles, ())
    for kind, content, load in (
        (".safetensors", damaged_safetensors, _load_safetensors),
        (".gguf", damaged_gguf, _load_gguf),
    ):
        case = _FileCase(folder / f"case{kind}", content, partial(_read_and_load, load))
        yield Target(f"{kind} files", case, (HeaderError,))


def body_targets() -> Iterator[Target]:
    from fuzz_http import http_case  # starts a ComfyUI

    yield Target("HTTP bodies", http_case(_shares), (ValidationError,))


def _read_settings(path: Path) -> object:
    configuration = read_configuration([path])
    return configuration.memory, configuration.planner, configuration.logging


def _read_and_load(load: Callable[[Path], None], path: Path) -> object:
    inventory = inventory_of_file(path)
    load(path)
    return inventory


def _load_safetensors(path: Path) -> None:
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118  # it is no mapping
            file.get_tensor(name)


def _load_gguf(path: Path) -> None:
    for tensor in gguf.GGUFReader(path).tensors:
        assert tensor.data.nbytes == tensor.n_bytes


def _expert(chance: random.Random) -> object:
    text = _shares(chance)
    request = parse_expert(text, compute_device="cuda:0", known=KNOWN)
    written = format_expert(request)
    assert parse_expert(written, compute_device=request.compute_device, known=KNOWN) == request, (text, written)
    return text


def _full(chance: random.Random) -> object:
    parts = (_shares(chance), chance.choice(WORDS), chance.choice(WORDS), ",".join(chance.sample(WORDS, 2)))
    text = "{}#{};{};{}".format(*parts) if chance.random() < 0.8 else _made_of(chance, WORDS)
    return parse_full(text, known=KNOWN)


def _widgets(chance: random.Random) -> object:
    gigabytes = chance.choice([0.0, 4.0, -1.0, 1e308, float("inf"), float("nan"), chance.uniform(0, 100)])
    device = chance.choice(WORDS)
    expert = _shares(chance) if chance.random() < 0.5 else ""
    return request_from_widgets(AllocationWidgets(device, gigabytes, _made_of(chance, WORDS), expert), KNOWN)


@dataclass(frozen=True)
class _FileCase:
    path: Path
    content: Callable[[random.Random], bytes]
    read: Callable[[Path], object]

    def __call__(self, chance: random.Random) -> object:
        content = self.content(chance)
        self.path.write_bytes(content)
        try:
            return self.read(self.path)
        except HeaderError:
            raise
        except Exception as error:
            raise RuntimeError(f"{content[:2000]!r}") from error


def _toml(chance: random.Random) -> bytes:
    if chance.random() < 0.3:
        return _made_of(chance, TOML).encode(errors="surrogatepass")
    return damaged(chance, SHIPPED.read_bytes(), [piece.encode() for piece in TOML])


def _shares(chance: random.Random) -> str:
    """Mostly shares as they should be, of devices and amounts that may be none."""
    if chance.random() < 0.2:
        return _made_of(chance, WORDS)
    unit = chance.choice(["gb", "mb", "%", "", " GiB", "b"])
    amounts = [f"{chance.choice(['1', '0.25', '33.3', '100', '0', '*', chance.choice(WORDS)])}{unit}" for _ in range(3)]
    devices = [chance.choice(KNOWN) if chance.random() < 0.9 else chance.choice(WORDS) for _ in amounts]
    count = chance.randrange(1, 4)
    return ";".join(f"{device},{amount}" for device, amount in list(zip(devices, amounts, strict=True))[:count])


def _made_of(chance: random.Random, words: list[str]) -> str:
    return "".join(chance.choice(words) for _ in range(chance.randrange(16)))


def measure(strings: int, files: int, bodies: int, seed: int) -> Iterator[Record]:
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())  # what is logged of a case is not printed
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        for cases, targets in (
            (strings, string_targets),
            (files, partial(file_targets, Path(folder))),
            (bodies, body_targets),
        ):
            each = list(targets()) if cases else []
            for target in each:
                yield from _measured(target, -(-cases // len(each)), seed)


def _measured(target: Target, cases: int, seed: int) -> Iterator[Record]:
    chance, taken, failed, slowest = random.Random(f"{seed} {target.name}"), 0, 0, 0.0
    settled = resident = 0
    for number in range(cases):
        if number == cases // 10:
            settled = resident = _resident_bytes()
        begin = time.process_time()
        try:
            target.case(chance)
            taken += 1
        except target.allowed:
            pass
        except Exception as error:
            failed += 1
            if failed <= SHOWN_FAILURES:
                print(f"{target.name}, case {number}: {error!r:.2000}", file=sys.stderr)  # noqa: T201
        slowest = max(slowest, time.process_time() - begin)
    resident = _resident_bytes()
    yield Record(f"{target.name}: cases", cases, "cases")
    yield Record(f"{target.name}: errors that are not ours", failed, "cases", 0)
    yield Record(f"{target.name}: taken", taken / cases, "of all")
    yield Record(f"{target.name}: slowest", slowest, "s of a core", SLOWEST_SECONDS)
    yield Record(f"{target.name}: growth of memory", (resident - settled) / 2**20, "MB", GROWTH_BYTES / 2**20)


def _resident_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print a list of records instead of a table")
    parser.add_argument("--strings", type=int, default=1_000_000, help="allocation strings and widgets")
    parser.add_argument("--files", type=int, default=200_000, help="model files, settings and kept profiles")
    parser.add_argument("--bodies", type=int, default=20_000, help="of HTTP requests, inside a ComfyUI")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="write the records, with machine and date, to this file")
    options = parser.parse_args()
    report(
        "Fuzzing",
        list(measure(options.strings, options.files, options.bodies, options.seed)),
        options.json,
        options.keep,
    )
