"""Single mutations: which edits of a source are tried, and that each can be applied."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

SOURCE = '''"""A module."""

log = None


class Ring:
    """A ring."""

    def __init__(self) -> None:
        self.size = 1

    def grow(self, by: int, force: bool = False) -> bool:
        """Grow."""
        log.info("grown", by=by)
        if by < 0 and not force:
            raise ValueError(f"{by} ü")
        with self.lock:
            self.size += by
        return self.check(strict=True, least=0) or by is None
'''


@pytest.fixture
def mutations(repository: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    return importlib.import_module("mutations")


def test_calls_assignments_conditions_contexts_and_flags_are_mutated_and_nothing_else(
    mutations: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "ring.py"
    path.write_text(SOURCE)
    edits = {(each.before, each.after) for each in mutations.mutations_of(path)}
    assert edits == {
        ("by < 0 and not force", "(not (by < 0 and not force))"),
        ("by < 0", "True"),
        ("not force", "True"),
        ("by < 0", "(by <= 0)"),
        ('raise ValueError(f"{by} ü")', "pass"),
        ("self.lock", '__import__("contextlib").nullcontext()'),
        ("self.size += by", "pass"),
        ("True", "False"),
        ("self.check(strict=True, least=0)", "False"),
        ("by is None", "False"),
        ("by is None", "(by is not None)"),
    }


def test_equal_edits_of_equal_lines_are_counted_and_each_knows_its_lines(mutations: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "ring.py"
    lines = (
        "class Ring:",
        "    one = f(x=True)",
        "",
        "    def grow(self):",
        *2 * ["        stop()"],
        "        stop(",
        ")",
    )
    path.write_text("\n".join(lines))
    found = [(each.text, each.occurrence, each.lines, each.is_in_function) for each in mutations.mutations_of(path)]
    assert found == [
        ("one = f(x=True)", 1, range(2, 3), False),
        ("stop()", 1, range(5, 6), True),
        ("stop()", 2, range(6, 7), True),
        ("stop(", 1, range(7, 9), True),
    ]


def test_each_mutation_of_the_streaming_code_is_one_edit_and_compiles(mutations: ModuleType, repository: Path) -> None:
    path = repository / "multigpu_core/execution/streaming/prefetcher.py"
    found = mutations.mutations_of(path)
    sources = {each.applied() for each in found}
    assert len(sources) == len(found) > 50
    assert path.read_text() not in sources
    for source in sources:
        compile(source, "prefetch.py", "exec")
