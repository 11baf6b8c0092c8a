"""On objects of ComfyUI and of packs we set one attribute of our own, and docs/architecture.md names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..support.in_process import ComfyUI
from ..support.split_models import THIRDS, Sampler

OURS = "multigpu_placement"


def _attributes(patcher: Any) -> dict[str, set[str]]:
    """The attributes of a patcher and of each module of its model, by the module's path."""
    return {"patcher": set(vars(patcher))} | {
        f"model.{path}": set(vars(module)) for path, module in patcher.model.named_modules()
    }


def test_a_split_adds_one_attribute_to_the_patcher_and_none_to_the_model(comfyui: ComfyUI) -> None:
    sampler = Sampler(comfyui, "flux")
    whole = sampler.whole()
    sampler.picture(whole)
    expected = _attributes(whole)
    split = sampler.split(**THIRDS)
    sampler.picture(split)
    found = _attributes(split)
    more = {where: added for where in found if (added := found[where] - expected[where])}
    assert more == {"patcher": {OURS}}


def test_the_attribute_is_gone_when_the_loader_hands_the_model_out_whole(comfyui: ComfyUI) -> None:
    from multigpu.multigpu_core.comfy.split.patcher import undistribute

    split = Sampler(comfyui, "flux").split(**THIRDS)
    undistribute(split)
    assert OURS not in vars(split)


def test_the_architecture_page_names_it(repository: Path) -> None:
    assert f"`{OURS}`" in (repository / "docs" / "architecture.md").read_text()
