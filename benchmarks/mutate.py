"""Single mutations of the code that moves weights and applies LoRAs: how many does a test notice?

python benchmarks/mutate.py [--json] [--sample N] [--seed N] [--module NAME] [--jobs N] [--keep FILE]

A mutation is one small edit (mutations.py says which kinds). A sample of them is drawn. For each, the tests that run
the mutated line are run against the mutated module: first those of tests/unit/execution, then, if none fails, those
inside a real ComfyUI. A mutation that no test notices is printed, unless equivalent_mutations.toml explains why it
changes no behaviour. A test that hangs counts as a test that fails. Which test runs which line is recorded by one run
under coverage and kept in .cache/mutate until the code or a test changes. About 20 minutes of two cores for 100.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import coverage
from mutant import VARIABLE
from mutations import Mutation, mutations_of
from records import Record, report
from rich.console import Console

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache" / "mutate"
EQUIVALENT = Path(__file__).with_name("equivalent_mutations.toml")
CORE = ROOT / "multigpu_core"
MUTATED = (
    *CORE.glob("execution/*.py"),
    *(CORE / "comfy" / f"{name}.py" for name in ("patcher", "patches", "placement")),
)
SECONDS = 300
"""For the tests of one mutation: many times what they need, so that only a test that hangs takes it."""
MOST_UNNOTICED = 0.1


@dataclass(frozen=True)
class Suite:
    """Tests that share a process. `paths` are relative to the checkout."""

    name: str
    paths: tuple[str, ...]


SUITES = (
    Suite("unit", ("tests/unit/execution",)),
    Suite(
        "comfyui",
        tuple(
            f"tests/comfyui/test_{name}.py"
            for name in (
                "split_loras",
                "split_memory",
                "split_load_bounds",
                "out_of_memory",
                "relayed_pictures",
                "patches_elsewhere",
            )
        ),
    ),
)


@dataclass(frozen=True)
class Outcome:
    """What became of one mutation. `noticed_by` is a suite's name, empty if no test failed."""

    mutation: Mutation
    noticed_by: str
    equivalent_because: str = ""

    @property
    def is_unnoticed(self) -> bool:
        return not self.noticed_by and not self.equivalent_because


class TestsByLine:
    """Which tests of a suite run which line, by a run under coverage."""

    def __init__(self, suite: Suite) -> None:
        self._data = coverage.CoverageData(str(self._recorded(suite)))
        self._data.read()

    def of(self, mutation: Mutation) -> list[str]:
        """Return the ids of the tests that run the line; all tests of the suite for a line that an import runs."""
        contexts = self._data.contexts_by_lineno(str(mutation.path)).get(mutation.line, [])
        return sorted({context.rpartition("|")[0] for context in contexts if "|" in context})

    def _recorded(self, suite: Suite) -> Path:
        data = CACHE / f"{suite.name}-{_fingerprint()}.coverage"
        if not data.exists():
            CACHE.mkdir(parents=True, exist_ok=True)
            options = [f"--cov={CORE}", "--cov-context=test", "--cov-report=", "-q", "-p", "no:cacheprovider", "-n0"]
            command = [sys.executable, "-m", "pytest", *suite.paths, *options]
            run = subprocess.run(
                command, cwd=ROOT, env={**os.environ, "COVERAGE_FILE": str(data)}, text=True, capture_output=True
            )
            if run.returncode:
                data.unlink(missing_ok=True)
                raise SystemExit(f"The tests fail without any mutation:\n{run.stdout[-4000:]}{run.stderr[-1000:]}")
        return data


def outcomes(mutations: Sequence[Mutation], jobs: int) -> Iterator[Outcome]:
    """Try mutations, `jobs` at a time, and yield what became of each, in their order."""
    explained = _explained()
    tests = {suite: TestsByLine(suite) for suite in SUITES}

    def outcome(mutation: Mutation) -> Outcome:
        reason = explained.get((mutation.path.name, mutation.function, mutation.before, mutation.after), "")
        if reason:
            return Outcome(mutation, "", reason)
        noticed = (suite.name for suite in SUITES if _notices(tests[suite].of(mutation), mutation))
        return Outcome(mutation, next(noticed, ""))

    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(outcome, mutations)


def _notices(tests: Sequence[str], mutation: Mutation) -> bool:
    """Whether one of these tests fails under the mutation."""
    if not tests:
        return False
    module = ".".join(("multigpu", *mutation.path.relative_to(ROOT).with_suffix("").parts))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / mutation.path.name
        source.write_text(mutation.applied())
        listed = Path(folder) / "tests"
        listed.write_text("\n".join(tests))
        environment = {
            **os.environ,
            VARIABLE: f"{module}={source}",
            "PYTHONPATH": str(Path(__file__).parent),
            "OMP_NUM_THREADS": "1",
        }
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "mutant",
            "-x",
            "-q",
            "-p",
            "no:cacheprovider",
            "-n0",
            f"@{listed}",
        ]
        try:
            run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            return True
    return run.returncode != 0


def _explained() -> dict[tuple[str, str, str, str], str]:
    entries = tomllib.loads(EQUIVALENT.read_text())["mutation"]
    return {(each["file"], each["function"], each["before"], each["after"]): each["because"] for each in entries}


def _fingerprint() -> str:
    """What the recorded lines depend on: the mutated code and the tests."""
    digest = hashlib.sha256()
    for path in sorted((*CORE.rglob("*.py"), *(ROOT / "tests").rglob("*.py"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _drawn(sample: int, seed: int, module: str | None) -> list[Mutation]:
    paths = sorted(path for path in MUTATED if module in (None, path.stem))
    if not paths:
        raise SystemExit(
            f"No mutated module is called {module!r}: choose from {', '.join(sorted(p.stem for p in MUTATED))}."
        )
    every = [mutation for path in paths for mutation in mutations_of(path)]
    return random.Random(seed).sample(every, min(sample, len(every)))


def measure(mutations: Sequence[Mutation], jobs: int) -> Iterator[Record]:
    """Try the mutations, print each that no test notices as soon as it is known, and count."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    done: list[Outcome] = []
    for number, each in enumerate(outcomes(mutations, jobs), start=1):
        done.append(each)
        if not each.noticed_by:
            console.print(f"{number}: {each.mutation}", markup=False)
            console.print(f"    {each.equivalent_because or 'No test notices this.'}", markup=False)
        elif number % 10 == 0:
            console.print(f"{number} of {len(mutations)} tried", markup=False)
    for suite in SUITES:
        yield Record(f"noticed by {suite.name} tests", _count(done, suite.name), "mutations")
    yield Record("equivalent, as explained", sum(1 for each in done if each.equivalent_because), "mutations")
    unnoticed = sum(1 for each in done if each.is_unnoticed)
    yield Record("noticed by no test", unnoticed, "mutations", MOST_UNNOTICED * len(done))


def _count(done: Iterable[Outcome], suite: str) -> int:
    return sum(1 for each in done if each.noticed_by == suite)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print a list of records instead of a table")
    parser.add_argument("--sample", type=int, default=100, help="how many mutations to draw")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--module", help="mutate one module alone, such as prefetch")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="mutations tried at a time")
    parser.add_argument("--keep", type=Path, help="write the records, with machine and date, to this file")
    options = parser.parse_args()
    drawn = _drawn(options.sample, options.seed, options.module)
    records = list(measure(drawn, options.jobs))
    report(f"{len(drawn)} mutations, seed {options.seed}", records, options.json, options.keep)
