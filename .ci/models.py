"""Write docs/models.md, the table of models that were built and tested: `python .ci/models.py [--write]`.

It says what tests/comfyui/support/architectures declares and the tests of it check. Without --write it prints the page.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "tests.comfyui.support.architectures"
PAGE = ROOT / "docs" / "models.md"
FILES = {
    "images": "Images",
    "videos": "Videos, sound and shapes",
    "unets": "U-Nets, vision models, ControlNets and VAEs",
    "text_encoders": "Text encoders",
}
"""The files of architectures, and the headings of their tables."""
TOP = """# Models

Which models our tests build from ComfyUI's own classes. `python .ci/models.py --write` writes this page.

- **May move**: the model is built at its published sizes, without weights. Every parameter is in exactly one block.
  This share of its bytes is in blocks that may be stored on other devices. Embeddings of a vocabulary stay on the
  compute device. The file's header gives the same blocks, so `multigpu plan` and the allocation editor show what a
  load does.
- **Split**: a small model of the same class computes the same output, bit for bit, whole and split over two simulated
  GPUs and the cpu, in two forward passes.
- **Relay**: the same with the strategy `relay`, where the second GPU computes half of the blocks.

A model with a version needs that ComfyUI; the others are in 0.30.0 as well. A test fails if ComfyUI supports a model
that is not on this page. No published weights were loaded here, and nothing on this page ran on a real GPU.
"""


def cells(name: str, architecture: Any) -> Iterator[str]:
    """The cells of one row; a model without inputs has a reason."""
    if architecture.inputs is None and not architecture.not_computed:
        raise ValueError(f"{name} is not computed, and nothing says why: set not_computed.")
    yield f"{name} (ComfyUI {architecture.since})" if architecture.since else name
    yield ", ".join(f"`{entry}`" for entry in architecture.serves)
    yield f"{architecture.movable_share:.0%} of {'all but its vocabulary' if architecture.keeps_vocabulary else 'it'}"
    if architecture.inputs is None:
        yield f"not computed: {architecture.not_computed}"
        yield "not computed"
    else:
        yield "equal"
        yield f"no: {architecture.not_relayed}" if architecture.not_relayed else "equal"


def table(architectures: Mapping[str, Any]) -> str:
    rows = [("model", "entries of `comfy.supported_models`", "may move, at least", "split", "relay"), ("---",) * 5]
    rows += [tuple(cells(name, architecture)) for name, architecture in architectures.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def page() -> str:
    """The whole page."""
    sys.path.insert(0, str(ROOT))  # before any other package that is called `tests`
    try:
        reasons = import_module(f"{PACKAGE}.not_built").NOT_BUILT
        files = {name: import_module(f"{PACKAGE}.{name}") for name in FILES}
    finally:
        sys.path.remove(str(ROOT))
    parts = [TOP]
    parts += [f"## {heading}\n\n{table(files[name].ARCHITECTURES)}\n" for name, heading in FILES.items()]
    parts.append("## Not built\n\n" + "\n".join(f"- `{entry}`: {reason}." for entry, reason in reasons.items()) + "\n")
    return "\n".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="write docs/models.md")
    if parser.parse_args().write:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        print(page(), end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
