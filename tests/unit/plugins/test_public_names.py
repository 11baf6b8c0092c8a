"""Authors need `multigpu`, `multigpu.hookspecs`, `multigpu.api` and `multigpu.testing`, and no other module of ours."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from multigpu import api, hookspecs, testing
from multigpu.multigpu_core.cli.new_integration import package_files

ROOT = Path(__file__).parents[3]
PUBLIC = {"multigpu", "multigpu.hookspecs", "multigpu.api", "multigpu.testing"}


def authors_code() -> Iterator[tuple[str, str]]:
    """Every piece of Python that authors read or start from."""
    for page in ("authoring.md", "testing.md"):
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        for number, code in enumerate(re.findall(r"```python\n(.*?)```", text, re.DOTALL), 1):
            yield f"{page} {number}", code
    for file in (ROOT / "examples").rglob("*.py"):
        if "sources" not in file.parts:
            yield str(file.relative_to(ROOT)), file.read_text(encoding="utf-8")
    for name, text in package_files("mine").items():
        if name.endswith(".py"):
            yield f"new-integration: {name}", text


def imported(code: str) -> set[str]:
    """The modules of multigpu that some code imports; a name imported from the package counts if it is a module."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "multigpu":
            found |= {f"multigpu.{a.name}" for a in node.names if (ROOT / a.name).is_dir()} | {"multigpu"}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return {name for name in found if name.partition(".")[0] == "multigpu"}


CODE = dict(authors_code())


def test_code_is_found_in_both_guides_the_examples_and_what_the_command_writes() -> None:
    kinds = {name.split(" ")[0].split("/")[0] for name in CODE}
    assert kinds == {"authoring.md", "testing.md", "examples", "new-integration:"}


@pytest.mark.parametrize("name", CODE)
def test_what_authors_read_and_start_from_imports_public_modules_alone(name: str) -> None:
    assert imported(CODE[name]) <= PUBLIC


@pytest.mark.parametrize("file", sorted((ROOT / "integrations").glob("*.py")), ids=lambda file: file.stem)
def test_our_own_integrations_do_with_public_modules_as_well(file: Path) -> None:
    assert imported(file.read_text(encoding="utf-8")) <= PUBLIC


@pytest.mark.parametrize("module", [api, testing])
def test_every_public_name_is_there_and_listed_once(module: object) -> None:
    listed = module.__all__  # type: ignore[attr-defined]
    assert sorted(set(listed)) == sorted(listed)
    assert {name for names in module._MODULES.values() for name in names} == set(listed) - {"is_split"}  # type: ignore[attr-defined]
    for name in listed:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        module.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_names_that_authors_took_from_hookspecs_are_still_there_and_the_same() -> None:
    for name in hookspecs.__all__:
        assert getattr(hookspecs, name) is getattr(api, name, getattr(hookspecs, name))


@pytest.mark.parametrize(
    "statement",
    ["from multigpu import hookimpl", "import multigpu.hookspecs", "from multigpu.api import WrappedLoader"],
)
def test_hooks_and_loader_data_load_neither_torch_nor_pydantic_nor_structlog(statement: str) -> None:
    code = f"import sys\n{statement}\nprint(*{{'torch', 'pydantic', 'structlog'}} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""
