"""Single mutations of the code that moves weights and applies LoRAs: how many does a test notice?

python benchmarks/mutate.py [--json] [--sample N] [--seed N] [--module NAME] [--jobs N] [--keep FILE]

A mutation is one small edit (mutations.py says which kinds). A sample of them is drawn, and for each the tests are run
against the mutated module until one fails: those of tests/unit/execution or, for modules that only ComfyUI can import,
those inside a real ComfyUI. Of tests with many cases few are run (mutant.py), always the same. A mutation that no test
notices is printed, unless equivalent_mutations.toml explains why it changes no behaviour. Tests that do not end in time
count as a failure, and are printed, too.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mutant import PROFILE, VARIABLE
from mutations import Mutation, mutations_of
from records import Record, report
from rich.console import Console

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
EQUIVALENT = Path(__file__).with_name("equivalent_mutations.toml")
CORE = ROOT / "multigpu_core"
MUTATED = (
    *CORE.glob("execution/**/*.py"),
    *(CORE / "comfy" / "split" / f"{name}.py" for name in ("patcher", "weight_patches", "placement")),
)
SECONDS = 300
"""For the tests of one mutation: many times what they need, so that only a test that hangs takes it."""
PYTEST = (
    *(
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-n0",
        "-m",
        "not long",
        "-p",
        "no:randomly",
        "-p",
        "no:cacheprovider",
    ),
    *("-p", "mutant", f"--hypothesis-profile={PROFILE}"),
)
"""The same cases in the same order in every run, and nothing kept for the next."""
MOST_UNNOTICED = 0.1


@dataclass(frozen=True)
class Suite:
    """Tests that share a process. `paths` are relative to the checkout."""

    name: str
    paths: tuple[str, ...]


UNIT = Suite("unit", ("tests/unit/execution",))
COMFYUI = Suite(
    "comfyui",
    tuple(
        f"tests/comfyui/{name}.py"
        for name in (
            "split/test_split_loras",
            "split/test_split_memory",
            "split/test_split_load_bounds",
            "split/test_weight_patches",
            "auxiliary/test_patches_elsewhere",
            "host/test_one_owner",
        )
    ),
)
SUITES = (UNIT, COMFYUI)


def _suite_of(mutation: Mutation) -> Suite:
    return COMFYUI if "comfy" in mutation.path.relative_to(CORE).parts else UNIT


@dataclass(frozen=True)
class Outcome:
    """What became of one mutation. `noticed_by` is a suite's name, empty if no test failed."""

    mutation: Mutation
    noticed_by: str = ""
    took_too_long: bool = False
    equivalent_because: str = ""

    @property
    def is_unnoticed(self) -> bool:
        return not self.noticed_by and not self.equivalent_because


def outcomes(mutations: Sequence[Mutation], jobs: int) -> Iterator[Outcome]:
    """Try mutations, `jobs` at a time, and yield what became of each, in their order."""
    explained = _explained()
    for suite in dict.fromkeys(map(_suite_of, mutations)):
        run = _run(suite, {})
        if run.returncode:
            raise SystemExit(f"The tests fail without any mutation:\n{run.stdout[-4000:]}{run.stderr[-1000:]}")

    def outcome(mutation: Mutation) -> Outcome:
        reason = explained.get((mutation.path.name, mutation.function, mutation.before, mutation.after), "")
        if reason:
            return Outcome(mutation, equivalent_because=reason)
        suite = _suite_of(mutation)
        try:
            return Outcome(mutation, suite.name if _notices(suite, mutation) else "")
        except subprocess.TimeoutExpired:
            return Outcome(mutation, suite.name, took_too_long=True)

    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(outcome, mutations)


def _notices(suite: Suite, mutation: Mutation) -> bool:
    """Whether a test fails under the mutation."""
    module = ".".join(("multigpu", *mutation.path.relative_to(ROOT).with_suffix("").parts))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / mutation.path.name
        source.write_text(mutation.applied())
        return _run(suite, {VARIABLE: f"{module}={source}"}).returncode != 0


def _run(suite: Suite, variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    here = {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*PYTEST, *suite.paths],
        cwd=ROOT,
        env={**os.environ, **here, **variables},
        text=True,
        capture_output=True,
        timeout=SECONDS,
    )


def _explained() -> dict[tuple[str, str, str, str], str]:
    entries = tomllib.loads(EQUIVALENT.read_text())["mutation"]
    return {(each["file"], each["function"], each["before"], each["after"]): each["because"] for each in entries}


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
        elif each.took_too_long:
            console.print(f"{number}: {each.mutation}", markup=False)
            console.print(f"    Its tests do not end in {SECONDS} s, which counts as noticed.", markup=False)
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
