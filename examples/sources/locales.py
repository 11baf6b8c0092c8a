"""Writes locales/en and locales/zh: what ComfyUI shows of our nodes, our commands and our page, in two languages.

python examples/sources/locales.py
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chinese

from multigpu.multigpu_core.provisioning.in_process import start_comfyui
from multigpu.multigpu_core.provisioning.release import comfyui_folder

ROOT = Path(__file__).parents[2]
SAID = re.compile(r'\bsay\(\s*"((?:[^"\\]|\\.)*)"')
COMMAND = re.compile(r'id: "(multigpu\.\w+)",\s*label: "([^"]+)"')


class UntranslatedError(LookupError):
    """Sentences that chinese.py lacks: `sentences`."""

    def __init__(self, sentences: set[str]) -> None:
        super().__init__("examples/sources/chinese.py lacks:\n" + "\n".join(sorted(sentences)))
        self.sentences = sentences


def sentences_of_the_page() -> list[str]:
    files = sorted((ROOT / "web").glob("*.js"))
    return sorted({found for file in files for found in SAID.findall(file.read_text(encoding="utf-8"))})


def commands() -> dict[str, str]:
    return dict(COMMAND.findall((ROOT / "web" / "multigpu.js").read_text(encoding="utf-8")))


def written(framework: Any) -> dict[str, str]:
    """The contents of every file, by its path under locales; `framework` is ours, running in a ComfyUI.

    Raises:
        UntranslatedError: something has no Chinese yet.
    """
    page, named = sentences_of_the_page(), commands()
    nodes = {node_id: (chinese_node, inputs) for node_id, chinese_node, inputs in _nodes(framework)}
    tooltips = {tooltip for _, inputs in nodes.values() for tooltip in inputs.values()}
    lacking = {each for each in page if each not in chinese.PAGE}
    lacking |= {label for label in named.values() if label not in chinese.COMMANDS}
    lacking |= {tooltip for tooltip in tooltips if not _tooltip(tooltip)}
    if lacking:
        raise UntranslatedError(lacking)
    files: dict[str, Any] = {
        "en/main.json": {"multigpu": {each: each for each in page}},
        "zh/main.json": {"multigpu": {each: chinese.PAGE[each] for each in page}, "nodeCategories": chinese.CATEGORIES},
        "en/commands.json": {_key(name): {"label": label} for name, label in named.items()},
        "zh/commands.json": {_key(name): {"label": chinese.COMMANDS[label]} for name, label in named.items()},
        "en/nodeDefs.json": {
            node_id: {"inputs": {name: {"tooltip": tooltip} for name, tooltip in inputs.items()}}
            for node_id, (_, inputs) in nodes.items()
        },
        "zh/nodeDefs.json": {
            node_id: {
                **texts,
                "inputs": {name: {"name": _input(name), "tooltip": _tooltip(text)} for name, text in inputs.items()},
            }
            for node_id, (texts, inputs) in nodes.items()
        },
    }
    return {path: json.dumps(content, ensure_ascii=False, indent=1) + "\n" for path, content in files.items()}


def _nodes(framework: Any) -> Iterator[tuple[str, dict[str, str], dict[str, str]]]:
    """Every node that our plugins offer, whether or not its pack is here: its Chinese, and its inputs' tooltips."""
    # Importable only where a ComfyUI is.
    from multigpu.multigpu_core.comfy.nodes.inputs import added_inputs, extra_input, own_device_inputs

    host = framework.context.host
    for _, loader in list(framework.plugins.loaders()):
        if not hasattr(loader, "variants"):
            texts = {"display_name": f"MultiGPU：{chinese.LOADERS.get(loader.node_id, loader.title)}"}
            yield loader.node_id, texts, _tooltips(own_device_inputs(loader, host))
            continue
        title = chinese.LOADERS.get(loader.target, loader.target)
        for variant in loader.variants:
            places = any(part.outputs for part in variant.parts) or variant.device_output
            what = chinese.SPLIT if variant.splits else chinese.PLACED if places else chinese.COMPUTED
            texts = {"display_name": f"{variant.title_suffix}：{title}", "description": what.format(target=title)}
            added = [*added_inputs(variant, host), *(extra_input(extra, host) for extra in variant.extra_inputs)]
            yield variant.node_id, texts, _tooltips(added)


def _tooltips(inputs: list[Any]) -> dict[str, str]:
    return {each.name: each.spec[1]["tooltip"] for each in inputs if each.spec[1].get("tooltip")}


def _tooltip(english: str) -> str:
    if english in chinese.TOOLTIPS:
        return chinese.TOOLTIPS[english]
    for subject, translated in chinese.SUBJECTS.items():
        found = chinese.TOOLTIPS.get(english.replace(subject, "{subject}", 1))
        if found:
            return found.format(subject=translated)
    return ""


def _input(name: str) -> str:
    for prefix, part in chinese.PREFIXES.items():
        if name.removeprefix(prefix) in chinese.INPUTS and name.startswith(prefix):
            return f"{part}：{chinese.INPUTS[name.removeprefix(prefix)]}"
    return chinese.INPUTS.get(name, name)


def _key(command: str) -> str:
    """As ComfyUI's page names a command in its translations."""
    return command.replace(".", "_")


def main() -> None:
    with tempfile.TemporaryDirectory() as base:
        made = written(start_comfyui(comfyui_folder(), Path(base)).framework)
    for path, text in made.items():
        file = ROOT / "locales" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
