"""The pages that people read, and what is quoted in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGES = (*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "benchmarks" / "README.md")
COMMANDS = ("multigpu", "make", "python")

_BLOCK = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_VARIABLE = re.compile(r"^[A-Z_]+=\S+\s+")


@dataclass(frozen=True)
class Example:
    """A command line of a console block, and what it prints; nothing where the page does not show it."""

    command: str
    output: str


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return _BLOCK.sub("", page.read_text(encoding="utf-8"))


def quoted(page: Path) -> list[str]:
    """What is in backticks in a page's prose."""
    return _SPAN.findall(prose(page))


def console_examples(page: Path) -> Iterator[Example]:
    for block in _BLOCK.finditer(page.read_text(encoding="utf-8")):
        if block["language"] in ("console", ""):
            for part in re.split(r"^\$ ", block["text"], flags=re.MULTILINE)[1:]:
                command, _, output = part.partition("\n")
                yield Example(command, output)


def command_lines(page: Path) -> Iterator[str]:
    """Every command line of ours, of make and of python: in a block of its own language, or in backticks."""
    text = page.read_text(encoding="utf-8")
    lines = [example.command for example in console_examples(page)]
    for block in _BLOCK.finditer(text):
        if block["language"] in ("shell", "bash", "sh", "") and not block["text"].startswith("$ "):
            lines += block["text"].replace("\\\n", " ").splitlines()
    for line in [*lines, *quoted(page)]:
        command = line.partition(" #")[0].strip()
        while _VARIABLE.match(command):
            command = _VARIABLE.sub("", command)
        if command.partition(" ")[0] in COMMANDS:
            yield command
