"""What the guides tell people to type, set and choose is there, and does what they show."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from multigpu import hookspecs
from multigpu.multigpu_core.allocation import AllocationError
from multigpu.multigpu_core.allocation.language.parser import parse_expert, parse_full
from multigpu.multigpu_core.cli.app import app
from multigpu.multigpu_core.plugins import OwnNode, PluginManager, built_in
from multigpu.multigpu_core.settings.core_settings import SECTIONS

from .flux_file import flux_file
from .pages import PAGES, ROOT, Example, command_lines, console_examples, quoted

DOCS = ROOT / "docs"
LINK = re.compile(r"\[[^]]*\]\((?!\w+:)(?P<path>[^)#\s]*)(?:#(?P<anchor>[^)\s]+))?\)")
MACHINE = ("cuda:0", "cuda:1", "cpu")
RUN_AS_A_WHOLE = "cli.md"
"""By tests/comfyui/cli/test_command_line_page.py."""


def of_all_pages(found: Any) -> list[Any]:
    """Parameters of a test, one for each thing that is found in a page."""
    return [pytest.param(each, id=f"{page.stem}: {each}"[:90]) for page in PAGES for each in dict.fromkeys(found(page))]


def shown_outputs(page: Path) -> Iterator[Example]:
    if page.name != RUN_AS_A_WHOLE:
        yield from (each for each in console_examples(page) if each.command.startswith("multigpu ") and each.output)


def lines_that_are_not_run(page: Path) -> Iterator[str]:
    return iter(()) if page.name == RUN_AS_A_WHOLE else command_lines(page)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the examples are run: it has the model file that they name."""
    folder = tmp_path_factory.mktemp("guides")
    flux_file(folder / "flux1-dev.safetensors")
    return folder


@pytest.mark.parametrize("example", of_all_pages(shown_outputs))
def test_a_command_prints_what_the_page_shows(example: Example, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(app, shlex.split(example.command)[1:])
    assert result.exit_code == 0, result.output
    assert result.stdout == example.output


@pytest.mark.parametrize("command", of_all_pages(lines_that_are_not_run))
def test_a_command_exists_with_its_options(command: str) -> None:
    program, *arguments = shlex.split(command)
    if program == "python" and arguments[:2] == ["-m", "multigpu"]:
        program, arguments = "multigpu", arguments[2:]
    if program == "multigpu":
        assert_ours(arguments)
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert {each for each in arguments if "=" not in each} <= {*targets}
    elif arguments[:1] == ["-m"]:
        assert find_spec(arguments[1]) is not None
    elif arguments != ["main.py"]:  # ComfyUI's own
        scripts = [*ROOT.glob(arguments[0].replace("NAME", "*"))]
        assert scripts, f"there is no {arguments[0]}"
        text = "".join(script.read_text(encoding="utf-8") for script in scripts)
        assert all(each in text for each in arguments[1:] if each.startswith("--"))


def assert_ours(arguments: list[str]) -> None:
    """The command has a subcommand of that name, and it understands the options; NAME and the like are anything."""
    if not arguments:
        return
    name, *options = arguments
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert name in commands, f"there is no multigpu {name}"
    if not options:  # in a sentence, a command's name alone
        return
    filled = ["startup" if each == "NAME" else each for each in options]
    commands[name].make_context(name, filled, resilient_parsing="--help" in filled).close()


def links(page: Path) -> Iterator[tuple[Path, str, str]]:
    for link in LINK.finditer(page.read_text(encoding="utf-8")):
        yield page, link["path"], link["anchor"] or ""


@pytest.mark.parametrize(("page", "path", "anchor"), [each for page in PAGES for each in links(page)])
def test_a_link_leads_somewhere(page: Path, path: str, anchor: str) -> None:
    target = page.parent / path if path else page
    assert target.exists(), f"{page.name}: {path}"
    if anchor:
        headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
        slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
        assert anchor in slugs, f"{page.name}: {path}#{anchor}"


@pytest.fixture(scope="module")
def node_ids() -> set[str]:
    manager = PluginManager(hookspecs)
    manager.register_all(built_in())
    found = set()
    for _, loader in list(manager.loaders()):
        if isinstance(loader, OwnNode):
            found.add(loader.node_id)
        else:
            found |= {variant.node_id for variant in loader.variants}
    # Those that are made of a pack's own nodes, and the examples have them from a real ComfyUI.
    for example in (ROOT / "examples").glob("*.json"):
        found |= {node["type"] for node in json.loads(example.read_text(encoding="utf-8"))["nodes"]}
    return found


def node_names(page: Path) -> Iterator[str]:
    names = (name for name in quoted(page) if re.fullmatch(r"\w+(MultiGPU\w*|LP)", name))
    yield from (
        name for name in names if not name.startswith(("My", "XMulti", "XDis"))
    )  # an author's own; any loader X


@pytest.mark.parametrize("name", of_all_pages(node_names))
def test_a_node_is_there(name: str, node_ids: set[str]) -> None:
    assert name in node_ids


def settings(page: Path) -> Iterator[str]:
    yield from (name for name in quoted(page) if name.split(".")[0] in SECTIONS and re.fullmatch(r"\w+\.[a-z_]+", name))


@pytest.mark.parametrize("name", of_all_pages(settings))
def test_a_setting_is_there(name: str) -> None:
    section, key = name.split(".")
    assert key in SECTIONS[section].model_fields


def plain_names(page: Path) -> Iterator[str]:
    """Inputs, hooks, events and variables: whatever is of words with underscores between them."""
    if page.stem == "compatibility":  # which names what other packs have changed
        return
    yield from (name for name in quoted(page) if re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)+|[A-Z]+(_[A-Z]+)+", name))


@pytest.fixture(scope="module")
def words() -> set[str]:
    """Every word of the code and of its configuration."""
    files = [*ROOT.glob("*.py"), ROOT / "plugins.toml", *(ROOT / "tests" / "comfyui").glob("**/*.py")]
    files += [file for room in ("multigpu_core", "integrations") for file in ROOT.glob(f"{room}/**/*.py")]
    return {word for file in files for word in re.findall(r"\w+", file.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("name", of_all_pages(plain_names))
def test_a_name_is_one_of_the_code(name: str, words: set[str]) -> None:
    assert name in words


def rows(page: str, heading: str) -> list[tuple[str, str]]:
    """The rows of the table under that second heading: what is in backticks first, and the second cell."""
    text = (DOCS / page).read_text(encoding="utf-8")
    table = re.search(rf"^\| string \| {heading} \|\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert table is not None
    return re.findall(r"^\| `(.+?)` \| (.+) \|$", table[1], re.MULTILINE)


@pytest.mark.parametrize(("text", "meaning"), rows("migrating.md", "meaning"))
def test_strings_of_old_workflows_are_understood(text: str, meaning: str) -> None:
    if "#" in text:
        assert parse_full(text, known=MACHINE).splits
    else:
        mode = parse_expert(text, compute_device="cuda:0", known=MACHINE).mode.value
        assert meaning.startswith(mode)


@pytest.mark.parametrize(("text", "said"), rows("migrating.md", "the node says"))
def test_wrong_strings_are_refused_with_the_words_of_the_guide(text: str, said: str) -> None:
    with pytest.raises(AllocationError) as error:
        parse_expert(text, compute_device="cuda:0", known=MACHINE)
    assert said in str(error.value)


def test_the_numbers_of_old_nodes_are_those_of_the_comparison() -> None:
    text = (DOCS / "migrating.md").read_text(encoding="utf-8")
    nodes = json.loads((ROOT / "tests/comfyui/data/nodes.json").read_text(encoding="utf-8"))["nodes"]
    ejecting = [name for name, node in nodes.items() if {"eject_models": True}.items() <= defaults(node).items()]
    assert f"All {len(nodes)} nodes" in text
    assert len(ejecting) == 9 and "nine nodes had it on" in text


def defaults(node: dict[str, Any]) -> dict[str, Any]:
    return {each["name"]: each.get("default") for each in node["inputs"]}


SAID = ("to reproduce", "bound by", "the link from", "computing", "this ComfyUI has changed", "There is no device")


@pytest.mark.parametrize("said", SAID)
def test_what_the_guides_quote_from_the_log_is_what_it_says(said: str) -> None:
    guides = "".join((DOCS / f"{name}.md").read_text(encoding="utf-8") for name in ("choosing", "troubleshooting"))
    code = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "multigpu_core").glob("**/*.py"))
    assert said in guides and said in code


def test_every_figure_of_ours_is_one_of_the_benchmarks() -> None:
    text = (DOCS / "choosing.md").read_text(encoding="utf-8")
    measured = text.partition("## What was measured")[2] + text.partition("Two halves")[2].partition("##")[0]
    figures = set(re.findall(r"\b\d\.\d+\b", measured))
    assert len(figures) > 6
    benchmarks = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert [figure for figure in sorted(figures) if figure not in benchmarks] == []
