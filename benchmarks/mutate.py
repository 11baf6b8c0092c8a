"""Single mutations of the code that moves weights and applies LoRAs: how many does a test notice?

python benchmarks/mutate.py [--json] [--sample N] [--seed N] [--module NAME] [--jobs N] [--keep FILE]

A mutation is one small edit (mutations.py says which kinds). A sample of them is drawn, and for each the tests that run
the edited lines are run against the mutated module until one fails, the cheapest first: tests of tests/unit/execution
or, for modules that only ComfyUI can import, tests inside a real ComfyUI. Which tests run which lines is recorded once,
without any mutation (covering.py). Of tests with many cases few are run (mutant.py), always the same.

What becomes of each is printed. One that changes no behaviour is explained in equivalent_mutations.toml: it is not
tried, and counts as noticed by no test. Tests that do not end in time count as a failure. With --keep the figures so
far are written after every mutation. Leave the checkout alone while it runs.
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
from typing import NoReturn

import covering
import pytest
from covering import Covering
from mutant import PROFILE, TESTS_VARIABLE, VARIABLE
from mutations import Mutation, mutations_of
from records import Record, keep_in, report
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
SECONDS_OF_ALL = 1800
"""For all tests of a suite without a mutation."""
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
    *("-p", "mutant", "-p", "covering", f"--hypothesis-profile={PROFILE}"),
)
"""The same cases in the same order in every run, and nothing kept for the next."""
NOT_RUN = (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED)
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
    remark: str = ""


def outcomes(mutations: Sequence[Mutation], jobs: int) -> Iterator[Outcome]:
    """Try mutations, `jobs` at a time, and yield what became of each, in their order."""
    explained = explanations()
    recorded = {suite: _recorded(suite) for suite in dict.fromkeys(map(_suite_of, mutations))}

    def outcome(mutation: Mutation) -> Outcome:
        if reason := explained.get(key_of(mutation)):
            return Outcome(mutation, remark=f"Changes no behaviour: {reason}")
        suite = _suite_of(mutation)
        tests = recorded[suite].of_lines(_file(mutation), mutation.lines if mutation.is_in_function else None)
        if not tests:
            return Outcome(mutation, remark="No test runs this.")
        try:
            is_noticed = _notices(mutation, tests)
        except subprocess.TimeoutExpired:
            return Outcome(mutation, suite.name, f"Its tests do not end in {SECONDS} s, which counts as noticed.")
        return Outcome(mutation, suite.name) if is_noticed else Outcome(mutation, remark="No test notices this.")

    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(outcome, mutations)


def _recorded(suite: Suite) -> Covering:
    """Run all tests of a suite without a mutation, which they have to pass."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "covering.json"
        try:
            run = _run(suite.paths, {covering.VARIABLE: str(path)}, SECONDS_OF_ALL)
        except subprocess.TimeoutExpired:
            raise SystemExit(
                f"The {suite.name} tests do not end in {SECONDS_OF_ALL} s, without any mutation."
            ) from None
        if run.returncode:
            raise SystemExit(f"The tests fail without any mutation:\n{run.stdout[-4000:]}{run.stderr[-1000:]}")
        return covering.read(path)


def _notices(mutation: Mutation, tests: Sequence[str]) -> bool:
    """Whether one of these tests fails under the mutation."""
    module = ".".join(("multigpu", *Path(_file(mutation)).with_suffix("").parts))
    with tempfile.TemporaryDirectory() as folder:
        source, names = Path(folder) / mutation.path.name, Path(folder) / "tests"
        source.write_text(mutation.applied())
        names.write_text("\n".join(tests))
        paths = dict.fromkeys(test.partition("::")[0] for test in tests)
        run = _run(paths, {VARIABLE: f"{module}={source}", TESTS_VARIABLE: str(names)}, SECONDS)
        if run.returncode in NOT_RUN:
            raise SystemExit(f"pytest did not run the tests of {mutation}:\n{run.stdout[-1000:]}{run.stderr[-4000:]}")
        return run.returncode != 0


def _run(paths: Iterable[str], variables: Mapping[str, str], seconds: float) -> subprocess.CompletedProcess[str]:
    here = {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*PYTEST, *paths],
        cwd=ROOT,
        env={**os.environ, **here, **variables},
        text=True,
        capture_output=True,
        timeout=seconds,
    )


def _file(mutation: Mutation) -> str:
    return str(mutation.path.relative_to(ROOT))


Key = tuple[str, str, int, str, str]


def key_of(mutation: Mutation) -> Key:
    """What names a mutation, also when other lines of the file come or go."""
    file = str(mutation.path.relative_to(CORE))
    return file, mutation.text, mutation.occurrence, mutation.before, mutation.after


def explanations() -> dict[Key, str]:
    """Why mutations change no behaviour, from equivalent_mutations.toml."""
    entries = tomllib.loads(EQUIVALENT.read_text())["mutation"]
    return {
        (each["file"], each["line"], each["occurrence"], each["before"], each["after"]): each["because"]
        for each in entries
    }


def _drawn(sample: int, seed: int, module: str | None) -> list[Mutation]:
    paths = sorted(path for path in MUTATED if module in (None, path.stem))
    if not paths:
        raise SystemExit(
            f"No mutated module is called {module!r}: choose from {', '.join(sorted(p.stem for p in MUTATED))}."
        )
    every = [mutation for path in paths for mutation in mutations_of(path)]
    return random.Random(seed).sample(every, min(sample, len(every)))


def report_of(done: Sequence[Outcome]) -> Iterator[Record]:
    """Count what became of mutations."""
    for suite in SUITES:
        yield Record(f"noticed by {suite.name} tests", sum(each.noticed_by == suite.name for each in done), "mutations")
    explained = explanations()
    yield Record("no behaviour changed, as explained", sum(key_of(e.mutation) in explained for e in done), "mutations")
    unnoticed = sum(not each.noticed_by for each in done)
    yield Record("noticed by no test, explained or not", unnoticed, "mutations", MOST_UNNOTICED * len(done))


def main(options: argparse.Namespace) -> NoReturn:
    """Try the mutations, print what became of each as soon as it is known, and count."""
    console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    drawn = _drawn(options.sample, options.seed, options.module)
    done: list[Outcome] = []
    for each in outcomes(drawn, options.jobs):
        done.append(each)
        console.print(f"{len(done)} of {len(drawn)}: {each.mutation}", f"    {each.remark or 'Noticed.'}", sep="\n")
        if options.keep:
            keep_in(options.keep, f"{len(done)} of {len(drawn)} mutations, seed {options.seed}", report_of(done))
    report(f"{len(drawn)} mutations, seed {options.seed}", list(report_of(done)), options.json, options.keep)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print a list of records instead of a table")
    parser.add_argument("--sample", type=int, default=100, help="how many mutations to draw")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--module", help="mutate one module alone, such as prefetch")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="mutations tried at a time")
    parser.add_argument("--keep", type=Path, help="write the figures, with machine and date, to this file")
    main(parser.parse_args())
