"""Made-up input for everything that reads what users and strangers write: our own errors, quickly, or nothing.

python benchmarks/fuzz.py [--json] [--cases N] [--seed N] [--keep FILE]

Strings are put together from the pieces of their grammar, files are valid ones with mistakes in them. A string that is
taken has to come out the same when it is written and read again. An exception that is none of ours ends the run, with
the input that raised it.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog
from fuzz_http import http_case
from pydantic import ValidationError
from records import Record, report

import multigpu
from multigpu.multigpu_core.allocation import AllocationWidgets, parse_expert, request_from_widgets
from multigpu.multigpu_core.allocation.errors import AllocationError
from multigpu.multigpu_core.allocation.gguf_header import read_gguf_header
from multigpu.multigpu_core.allocation.header_error import HeaderError
from multigpu.multigpu_core.allocation.language import format_expert, parse_full
from multigpu.multigpu_core.allocation.safetensors_header import read_safetensors_header
from multigpu.multigpu_core.devices import DeviceError
from multigpu.multigpu_core.plugins import read_configuration

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
]
TOML = ["[", "]", "=", '"', "'", "\n", "[[", "{", "}", "true", "1e999", "nan", "0x", "-", ".", "integrations", "memory"]
TOML += ["logging", "default", "\x00", "é", "[memory]\n", "[integrations.gguf]\n", "level = 3\n", "= =\n", '"""', "inf"]
JSON = ["{", "}", "[", "]", ",", ":", '"', "null", "-1", "1e99", "9" * 30, '"dtype"', '"F32"', "[0,", "\\u0000", "true"]


@dataclass(frozen=True)
class Target:
    """Something that reads: `case` makes an input and reads it, raising nothing but `allowed`."""

    name: str
    case: Callable[[random.Random], object]
    allowed: tuple[type[Exception], ...]


def targets(folder: Path) -> Iterator[Target]:
    refusals = (AllocationError, DeviceError)
    yield Target("allocation strings", _expert, refusals)
    yield Target("full allocation strings", _full, refusals)
    yield Target("widgets", _widgets, refusals)
    yield Target("plugins.toml", _FileCase(folder / "plugins.toml", _toml, lambda path: read_configuration([path])), ())
    safetensors = _FileCase(folder / "case.safetensors", _safetensors, read_safetensors_header)
    yield Target(".safetensors headers", safetensors, (HeaderError,))
    yield Target(".gguf headers", _FileCase(folder / "case.gguf", _gguf, read_gguf_header), (HeaderError,))
    yield Target("HTTP bodies", http_case(_shares), (ValidationError,))


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
    return _damaged(chance, SHIPPED.read_bytes(), TOML)


def _safetensors(chance: random.Random) -> bytes:
    header, offset = {}, 0
    for index in range(chance.randrange(4)):
        shape = [chance.randrange(5) for _ in range(chance.randrange(4))]
        size = 4
        for each in shape:
            size *= each
        header[f"blocks.{index}.weight"] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    if chance.random() < 0.8:
        text = _damaged(chance, text, JSON)
    length = len(text) if chance.random() < 0.9 else chance.choice([0, 1, len(text) + 1, 2**31, 2**63, 2**64 - 1])
    return _damaged(chance, struct.pack("<Q", length) + text + bytes(offset), (), chance.random() < 0.2)


def _gguf(chance: random.Random) -> bytes:
    def string(text: str) -> bytes:
        return struct.pack("<Q", len(text)) + text.encode()

    count = lambda usual: usual if chance.random() < 0.95 else chance.choice([0, 2**16, 2**32, 2**64 - 1])  # noqa: E731
    fields = [
        string("general.alignment") + struct.pack("<II", 4, chance.choice([0, 8, 32, 33, 2**31])),
        string("tokens") + struct.pack("<IIQ", 9, 8, count(2)) + string("a") + string(""),
        string("nested") + struct.pack("<IIQIQ", 9, 9, count(1), chance.choice([0, 4, 8, 9, 99]), count(0)),
        string("number") + struct.pack("<IQ", chance.choice([10, 12, 13]), 7),
    ]
    fields = chance.sample(fields, chance.randrange(len(fields) + 1))
    tensors, offset = [], 0
    for index in range(chance.randrange(4)):
        kind, size = chance.choice([(0, 256 * 4), (2, 8 * 18), (8, 8 * 34), (12, 144), (99, 0)])
        tensors.append(string(f"blk.{index}") + struct.pack("<IQIQ", 1, 256, kind, offset))
        offset += -(-size // 32) * 32
    head = b"GGUF" + struct.pack("<IQQ", chance.choice([3, 3, 3, 2, 1, 2**24]), count(len(tensors)), count(len(fields)))
    content = head + b"".join(fields + tensors)
    return _damaged(chance, content + bytes(-len(content) % 32 + offset), (), chance.random() < 0.7)


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


def _damaged(
    chance: random.Random, content: bytes, words: list[str] | tuple[str, ...], is_damaged: bool = True
) -> bytes:
    """The content with a few mistakes: bits, pieces that are left out or doubled, words put in, an end cut off."""
    changed = bytearray(content)
    for _ in range(chance.randrange(1, 4) if is_damaged and content else 0):
        begin = chance.randrange(len(changed) + 1)
        end = min(len(changed), begin + chance.randrange(9))
        way = chance.randrange(5)
        if way == 0 and begin < len(changed):
            changed[begin] ^= 1 << chance.randrange(8)
        elif way == 1:
            del changed[begin:end]
        elif way == 2:
            changed[begin:begin] = changed[begin:end]
        elif way == 3:
            put_in = chance.choice(words).encode() if words else chance.randbytes(chance.randrange(9))
            changed[begin:end] = put_in
        elif chance.random() < 0.3:
            del changed[begin:]
    return bytes(changed)


def measure(cases: int, seed: int) -> Iterator[Record]:
    structlog.configure(processors=[lambda *_: ""])
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        each = list(targets(Path(folder)))
        for target in each:
            yield from _measured(target, -(-cases // len(each)), seed)


def _measured(target: Target, cases: int, seed: int) -> Iterator[Record]:
    chance, taken, slowest = random.Random(f"{seed} {target.name}"), 0, 0.0
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
        slowest = max(slowest, time.process_time() - begin)
    resident = _resident_bytes()
    yield Record(f"{target.name}: cases without an error that is not ours", cases, "cases")
    yield Record(f"{target.name}: taken", taken / cases, "of all")
    yield Record(f"{target.name}: slowest", slowest, "s of a core", SLOWEST_SECONDS)
    yield Record(f"{target.name}: growth of memory", (resident - settled) / 2**20, "MB", GROWTH_BYTES / 2**20)


def _resident_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print a list of records instead of a table")
    parser.add_argument("--cases", type=int, default=1_000_000, help="over all that is fuzzed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="write the records, with machine and date, to this file")
    options = parser.parse_args()
    report("Fuzzing", list(measure(options.cases, options.seed)), options.json, options.keep)
