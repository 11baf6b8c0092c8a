"""Print how large the parts of this repository are: files in each folder, lines, long functions and long files.

    python .ci/structure.py [--check]

With --check the exit status is 1 where a limit is broken. docs/architecture.md says what each folder is for.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CODE = ("multigpu_core", "integrations")
FILES_IN_FOLDER = 16
LINES_OF_FILE = 400
LINES_OF_FUNCTION = 60


def modules(root: Path) -> Iterator[Path]:
    """The product's modules: those of the root folder first."""
    yield from sorted(root.glob("*.py"))
    for folder in CODE:
        yield from sorted((root / folder).rglob("*.py"))


def files_by_folder(root: Path) -> dict[str, int]:
    """The number of modules in each folder, `__init__.py` not counted."""
    counts: dict[str, int] = {}
    for path in modules(root):
        folder = path.parent.relative_to(root).as_posix()
        counts[folder] = counts.get(folder, 0) + (path.name != "__init__.py")
    return counts


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def functions_of(path: Path) -> Iterator[tuple[str, int]]:
    """Each function's name and its number of lines, its decorators not counted."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1


def broken_limits(root: Path) -> list[str]:
    """What is larger than it should be, a sentence each."""
    broken = [
        f"{folder} has {count} files, more than {FILES_IN_FOLDER}: split it by what its files are for."
        for folder, count in files_by_folder(root).items()
        if count > FILES_IN_FOLDER
    ]
    for path in modules(root):
        name = path.relative_to(root).as_posix()
        if (lines := lines_of(path)) > LINES_OF_FILE:
            broken.append(f"{name} has {lines} lines, more than {LINES_OF_FILE}: it holds more than one idea.")
        broken += [
            f"{name}: {function} has {lines} lines, more than {LINES_OF_FUNCTION}."
            for function, lines in functions_of(path)
            if lines > LINES_OF_FUNCTION
        ]
    return broken


def print_sizes(root: Path) -> None:
    counts = files_by_folder(root)
    for folder, count in counts.items():
        lines = sum(lines_of(path) for path in modules(root) if path.parent == root / folder)
        print(f"{count:4} files {lines:6} lines  {folder}")
    print(f"{sum(counts.values()):4} files {sum(lines_of(path) for path in modules(root)):6} lines  altogether")
    longest = max(((lines, path, name) for path in modules(root) for name, lines in functions_of(path)), default=None)
    if longest is not None:
        print(f"longest function: {longest[2]} in {longest[1].relative_to(root).as_posix()}, {longest[0]} lines")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="print broken limits only, and fail where there are any")
    checks = parser.parse_args().check
    if not checks:
        print_sizes(ROOT)
    broken = broken_limits(ROOT)
    print(*broken, sep="\n", end="\n" if broken else "")
    return 1 if broken and checks else 0


if __name__ == "__main__":
    sys.exit(main())
