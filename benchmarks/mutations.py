"""Single mutations of Python source: every place where one small edit changes what the code does.

A mutation replaces a part of one line or statement by something that a careless edit could have left there: a call that
is gone, a condition the wrong way round, a context manager that is not entered. Messages, log calls and annotations are
left alone, because no behaviour hangs on them.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

_BOUNDARIES: dict[type[ast.cmpop], str] = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
}
_ARITHMETIC: dict[type[ast.operator], str] = {ast.Add: "-", ast.Sub: "+", ast.Mult: "//", ast.FloorDiv: "*"}
_NO_CONTEXT = '__import__("contextlib").nullcontext()'


@dataclass(frozen=True)
class Mutation:
    """One edit. `function` is the qualified name of the function or class around it; lines count from 1."""

    path: Path
    function: str
    lines: range
    """The lines of `before`."""
    text: str
    """The first of these lines, without its indentation."""
    occurrence: int
    """How often the file has had the same edit of the same text up to here, this one included."""
    before: str
    after: str
    begin: int
    """Where `before` begins in the file, in bytes."""
    is_in_function: bool
    """Whether it runs when a function is called, and not when the module is imported."""

    def applied(self) -> str:
        """Return the whole source with this edit in it."""
        source = self.path.read_bytes()
        end = self.begin + len(self.before.encode())
        return (source[: self.begin] + self.after.encode() + source[end:]).decode()

    def __str__(self) -> str:
        place = f"{self.path.name}:{self.lines.start} {self.function}"
        return f"{place}: {_one_line(self.before)}  ->  {_one_line(self.after)}"


def mutations_of(path: Path) -> list[Mutation]:
    """Return every mutation of a file, in the order of its lines."""
    source = path.read_bytes()
    finder = _Finder(path, source)
    finder.visit(ast.parse(source))
    in_order = sorted(finder.found, key=lambda mutation: (mutation.begin, mutation.after))
    seen: Counter[tuple[str, str, str]] = Counter()
    for index, mutation in enumerate(in_order):
        edit = (mutation.text, mutation.before, mutation.after)
        seen[edit] += 1
        in_order[index] = replace(mutation, occurrence=seen[edit])
    return in_order


class _Finder(ast.NodeVisitor):
    def __init__(self, path: Path, source: bytes) -> None:
        self.found: list[Mutation] = []
        self._path = path
        self._source = source
        self._lines = source.decode().splitlines()
        self._line_begins = [0]
        for line in source.splitlines(keepends=True):
            self._line_begins.append(self._line_begins[-1] + len(line))
        self._names: list[str] = []
        self._functions = 0
        """How many functions are around what is looked at."""

    def visit(self, node: ast.AST) -> None:
        if _has_no_behaviour(node):
            return
        is_function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        is_scope = is_function or isinstance(node, ast.ClassDef)
        if is_scope:
            self._names.append(node.name)
        self._functions += is_function
        for part, after in self._edits(node):
            self._add(part, after)
        self.generic_visit(node)
        self._functions -= is_function
        if is_scope:
            self._names.pop()

    def visit_arguments(self, node: ast.arguments) -> None:
        """Look at defaults and not at annotations."""
        for default in (*node.defaults, *filter(None, node.kw_defaults)):
            self.visit(default)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def _edits(self, node: ast.AST) -> Iterator[tuple[ast.AST, str]]:
        if self._is_removable(node):
            yield node, "pass"
        elif isinstance(node, (ast.If, ast.While, ast.IfExp)) and not _is_single_comparison(node.test):
            yield node.test, f"(not ({self._text(node.test)}))"
        elif isinstance(node, ast.comprehension):
            yield from ((test, "True") for test in node.ifs)
        elif isinstance(node, ast.BoolOp):
            neutral = "True" if isinstance(node.op, ast.And) else "False"
            yield from ((value, neutral) for value in node.values)
        elif isinstance(node, ast.Compare) and _is_single_comparison(node):
            left, right = self._text(node.left), self._text(node.comparators[0])
            yield node, f"({left} {_BOUNDARIES[type(node.ops[0])]} {right})"
        elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC and not _is_text(node):
            yield node, f"({self._text(node.left)} {_ARITHMETIC[type(node.op)]} {self._text(node.right)})"
        elif (
            isinstance(node, ast.keyword)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, bool)
        ):
            yield node.value, str(not node.value.value)
        elif isinstance(node, ast.withitem) and node.optional_vars is None:
            yield node.context_expr, _NO_CONTEXT

    def _is_removable(self, node: ast.AST) -> bool:
        if isinstance(node, ast.Expr):
            return isinstance(node.value, ast.Call)
        if isinstance(node, (ast.Assign, ast.AugAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            makes_attributes = bool(self._names) and self._names[-1] == "__init__"  # removed, anything would fail
            return not makes_attributes and all(
                isinstance(target, (ast.Attribute, ast.Subscript)) for target in targets
            )
        return isinstance(node, (ast.Delete, ast.Raise))

    def _add(self, node: ast.AST, after: str) -> None:
        first, last = node.lineno, node.end_lineno  # type: ignore[attr-defined]
        self.found.append(
            Mutation(
                self._path,
                ".".join(self._names),
                lines=range(first, last + 1),
                text=self._lines[first - 1].strip(),
                occurrence=1,
                before=self._text(node),
                after=after,
                begin=self._line_begins[first - 1] + node.col_offset,  # type: ignore[attr-defined]
                is_in_function=self._functions > 0,
            )
        )

    def _text(self, node: ast.AST) -> str:
        begin = self._line_begins[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
        end = self._line_begins[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]
        return self._source[begin:end].decode()


def _is_single_comparison(node: ast.AST) -> bool:
    return isinstance(node, ast.Compare) and len(node.ops) == 1


def _has_no_behaviour(node: ast.AST) -> bool:
    """Whether a node is an import, a log call or for the type checker alone."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return True
    if isinstance(node, ast.If):
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        return ast.unparse(node.value.func).startswith(("log.", "log_"))
    return False


def _is_text(node: ast.BinOp) -> bool:
    return any(
        isinstance(part, ast.JoinedStr) or (isinstance(part, ast.Constant) and isinstance(part.value, str))
        for part in ast.walk(node)
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())
