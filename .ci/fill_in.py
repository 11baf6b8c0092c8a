"""Fill in what only the owner knows before publishing: the address of the repository and the publisher's id.

    python .ci/fill_in.py --repository https://github.com/OWNER/NAME --publisher ID

writes them, and the addresses of icon and banner, into pyproject.toml, and prints the entry for ComfyUI-Manager's list
(custom-node-list.json). Nothing else is left open. The workflow publish.yml calls it with its own repository's address
and the repository variable COMFY_PUBLISHER_ID.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILE = "pyproject.toml"
GITHUB = re.compile(r"https://github\.com/([\w.-]+)/([\w.-]+?)(?:\.git|/)?")
REPOSITORY = "Repository"
URLS = "[project.urls]"
PUBLISHER = re.compile(r"[a-z0-9][a-z0-9-]*")


def values_for(repository: str, publisher: str) -> dict[str, str]:
    """The empty keys of pyproject.toml with what goes there.

    Raises ValueError where the address is none of a GitHub repository, or the id none of a publisher.
    """
    found = GITHUB.fullmatch(repository)
    if found is None:
        raise ValueError(f"{repository!r} is no repository on GitHub: write https://github.com/OWNER/NAME")
    if not PUBLISHER.fullmatch(publisher):
        raise ValueError(f"{publisher!r} is no publisher id: it has small letters, digits and hyphens, as my-name")
    owner, name = found.groups()
    raw = f"https://raw.githubusercontent.com/{owner}/{name}/main/assets"
    return {
        REPOSITORY: f"https://github.com/{owner}/{name}",
        "PublisherId": publisher,
        "Icon": f"{raw}/icon.png",
        "Banner": f"{raw}/banner.png",
    }


def filled_in(text: str, values: dict[str, str]) -> str:
    """The text of pyproject.toml with the values in place of the empty or former ones."""
    if URLS not in text:  # an empty address would be no valid one
        text = text.replace("[tool.comfy]\n", f'{URLS}\n{REPOSITORY} = ""\n\n[tool.comfy]\n')
    for key, value in values.items():
        text, count = re.subn(rf'^{key} = ".*"$', f'{key} = "{value}"', text, flags=re.MULTILINE)
        if count != 1:
            raise ValueError(f"{FILE} has {count} lines of {key}, not one")
    return text


def manager_entry(values: dict[str, str], description: str) -> dict[str, object]:
    repository = values[REPOSITORY]
    return {
        "author": values["PublisherId"],
        "title": "MultiGPU",
        "id": "multigpu-nodes",
        "reference": repository,
        "files": [repository],
        "install_type": "git-clone",
        "description": description,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repository", required=True)
    parser.add_argument("--publisher", required=True)
    options = parser.parse_args()
    file = ROOT / FILE
    text = file.read_text(encoding="utf-8")
    try:
        values = values_for(options.repository, options.publisher)
        file.write_text(filled_in(text, values), encoding="utf-8")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    description = re.search(r'^description = "(.*)"$', text, re.MULTILINE)
    print(json.dumps(manager_entry(values, description[1] if description else ""), indent=4))
    return 0


if __name__ == "__main__":
    sys.exit(main())
