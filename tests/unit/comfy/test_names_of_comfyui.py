"""The list of ComfyUI's names is complete, all of them are used, and none is imported before its use."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from types import ModuleType

import pytest

from multigpu.multigpu_core import comfy
from multigpu.multigpu_core.comfy.host import compatibility
from multigpu.multigpu_core.comfy.host.comfyui_names import ComfyUIModule, ComfyUIName, MissingNameError

ROOT = Path(__file__).parents[3]
LIST = ROOT / "multigpu_core" / "comfy" / "host" / "compatibility.py"
RUN_A_COMFYUI_FOR_TESTS = ("provisioning", "conformance")
COMFYUI = {
    "comfy", "comfy_api", "comfy_config", "comfy_execution", "comfy_extras", "comfyui_version", "cuda_malloc",
    "execution", "folder_paths", "latent_preview", "main", "node_helpers", "nodes", "protocol", "server",
}  # fmt: skip
"""The modules at the top of ComfyUI's folder."""
MODULES = {name: repr(each) for name, each in vars(compatibility).items() if isinstance(each, ComfyUIModule)}
LISTED = {str(name) for name in compatibility.NAMES}


def _product() -> Iterator[Path]:
    yield from ROOT.glob("*.py")
    yield from (ROOT / "integrations").rglob("*.py")
    for path in sorted((ROOT / "multigpu_core").rglob("*.py")):
        if path != LIST and path.relative_to(ROOT / "multigpu_core").parts[0] not in RUN_A_COMFYUI_FOR_TESTS:
            yield path


@dataclass
class Reached(ast.NodeVisitor):
    """What one file imports of ComfyUI and what it reaches through the list's modules, as dotted names."""

    imported: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    words: set[str] = field(default_factory=set)
    """Every attribute, method and text in the file: objects of ComfyUI are also reached without their module."""
    _known: dict[str, str] = field(default_factory=dict)
    """Dotted names by the variables that hold them."""

    def visit_If(self, node: ast.If) -> None:
        if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.imported |= {alias.name for alias in node.names}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.level == 0:
            self.imported.add(str(node.module))
        if str(node.module).rpartition(".")[2] == "compatibility":
            self._known |= {each.asname or each.name: MODULES[each.name] for each in node.names if each.name in MODULES}

    def visit_Assign(self, node: ast.Assign) -> None:
        dotted = self._dotted(node.value)
        if dotted is not None and isinstance(node.targets[0], ast.Name):
            self._known[node.targets[0].id] = dotted
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        called = ast.unparse(node.func).rpartition(".")[2]
        texts = [each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
        if called == "flag":
            self.names |= {f"comfy.cli_args.args.{text}" for text in texts}
        if called == "declared":
            self.names |= set(texts)
        if called in ("import_module", "__import__"):
            self.imported |= set(texts)
        if called in ("getattr", "hasattr") and texts and (owner := self._dotted(node.args[0])) is not None:
            self.names.add(f"{owner}.{texts[0]}")
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.words.add(node.attr)
        if (dotted := self._dotted(node)) is not None:
            self.names.add(dotted)
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.words.add(node.name)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        self.words.add(str(node.value))

    def _dotted(self, node: ast.AST) -> str | None:
        if isinstance(node, ast.Name):
            return self._known.get(node.id)
        owner = self._dotted(node.value) if isinstance(node, ast.Attribute) else None
        return f"{owner}.{node.attr}" if owner is not None and isinstance(node, ast.Attribute) else None


def reached(path: Path) -> Reached:
    found = Reached()
    found.visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


FOUND = {path.relative_to(ROOT).as_posix(): reached(path) for path in _product()}
WORDS = {word for found in FOUND.values() for word in found.words}
NAMES = {name for found in FOUND.values() for name in found.names}


def test_no_file_imports_comfyui_itself() -> None:
    importing = {
        path: names
        for path, found in FOUND.items()
        if (names := {n for n in found.imported if n.split(".")[0] in COMFYUI})
    }
    assert importing == {}


def _is_listed(name: str) -> bool:
    if name in LISTED or any(each.startswith(f"{name}.") for each in LISTED):
        return True
    above = name.rpartition(".")[0]  # an attribute of what a listed name is
    return above in LISTED and not any(each.startswith(f"{above}.") for each in LISTED)


def test_whatever_is_reached_is_listed() -> None:
    names = [(path, name) for path, found in FOUND.items() for name in found.names]
    assert names and [(path, name) for path, name in names if not _is_listed(name)] == []


def _is_used(name: ComfyUIName) -> bool:
    owner, _, last = name.name.rpartition(".")
    if name.is_replaced:
        return name.name in WORDS
    return bool({str(name)} & (NAMES | WORDS)) or (owner != "" and last in WORDS)


@pytest.mark.parametrize("name", compatibility.NAMES, ids=str)
def test_whatever_is_listed_is_used(name: ComfyUIName) -> None:
    assert _is_used(name)


def test_every_method_of_a_patcher_or_control_that_is_overridden_is_listed() -> None:
    bases = {"PatcherClass": "comfy.model_patcher.ModelPatcher", "ControlClass": "comfy.controlnet.Control"}
    own = {"offload_more"}
    lists: dict[str, set[str]] = {}
    for path in (ROOT / "multigpu_core" / "comfy").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and node.bases and ast.unparse(node.bases[0]) in bases:
                methods = {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
                lists[bases[ast.unparse(node.bases[0])]] = {m for m in methods - own if not m.startswith("_")}
    assert lists.keys() == set(bases.values())
    unlisted = {
        f"{base} {method}"
        for base, methods in lists.items()
        for method in methods
        if not any(name.startswith(base) and name.endswith(f".{method}") for name in LISTED)
    }
    assert unlisted == set()


def test_all_our_modules_import_without_a_comfyui() -> None:
    for module in walk_packages(comfy.__path__, f"{comfy.__name__}."):
        import_module(module.name)
    assert not COMFYUI & sys.modules.keys()


# One name: how it is checked and reached, in a ComfyUI that is made up.


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("made_up_comfyui")
    vars(module).update(free=lambda size, device: size, count=1)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def _name(name: str, module: str = "made_up_comfyui", **more: object) -> ComfyUIName:
    return ComfyUIName(module, name, (compatibility.Feature.SPLITTING,), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        (_name("free", parameters=("size", "device")), ""),
        (_name("free", parameters=("size", "keep", "loud")), "made_up_comfyui.free takes no keep, loud"),
        (_name("gone"), "made_up_comfyui.gone is gone"),
        (_name("gone", is_optional=True), ""),
        (_name("free", module="no_such_module"), "no_such_module.free is gone"),
        (_name("count", parameters=("size",)), "made_up_comfyui.count is not a function"),
        (_name("count", is_replaced=True), "made_up_comfyui.count is not a function"),
        (_name("count"), ""),
    ],
    ids=str,
)
def test_a_fault_says_what_has_changed(made_up: ModuleType, name: ComfyUIName, fault: str) -> None:
    assert name.fault == fault


def test_a_module_is_imported_at_its_use_and_read_and_written_itself(made_up: ModuleType) -> None:
    module = ComfyUIModule(made_up.__name__, [_name("count")])
    module.count += 1
    assert (made_up.count, module.count, repr(module)) == (2, 2, "made_up_comfyui")
    assert ComfyUIModule("no_such_module", [_name("x", module="no_such_module")]) is not None


def test_a_missing_name_is_named_with_what_is_off_and_what_to_do(made_up: ModuleType) -> None:
    names = [_name("gone"), ComfyUIName("made_up_comfyui", "gone", (compatibility.Feature.KEEPING,))]
    with pytest.raises(MissingNameError) as error:
        _ = ComfyUIModule(made_up.__name__, names).gone
    assert error.value.features == (compatibility.Feature.SPLITTING, compatibility.Feature.KEEPING)
    for part in ("no made_up_comfyui.gone", "splitting models, keep_loaded", "docs/compatibility.md"):
        assert part in str(error.value)
    assert getattr(ComfyUIModule(made_up.__name__, names), "gone", 5) == 5


def test_a_name_that_is_not_listed_is_refused_even_if_it_is_there(made_up: ModuleType) -> None:
    module = ComfyUIModule(made_up.__name__, [_name("free")])
    with pytest.raises(AttributeError, match=r"made_up_comfyui\.count is not in the list"):
        _ = module.count
    with pytest.raises(AttributeError, match="is not in the list"):
        module.count = 3


def test_a_name_that_another_version_has_moved_is_found_by_its_entry_alone(
    made_up: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = ModuleType("newer_comfyui")
    vars(newer).update(memory=ModuleType("memory"))
    vars(newer.memory).update(release=made_up.free)
    monkeypatch.setitem(sys.modules, newer.__name__, newer)
    del made_up.free
    name = _name("free", parameters=("size",), moved_to="newer_comfyui:memory.release")
    assert name.fault == ""
    assert ComfyUIModule(made_up.__name__, [name]).free(7, "npu:0") == 7
    assert name.place == (newer.memory, "release"), "what is replaced is replaced there"
