"""For mkdocs: what the pages link to outside of docs/ goes into the site, at its place in the repository.

So one link serves a reader of the repository and a reader of the site.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from posixpath import normpath
from typing import Any

from mkdocs.structure.files import File, Files

LINK = re.compile(r"\]\((?!<?\w+:)(?:<(?P<in_brackets>[^>#]+)|(?P<plain>[^)#\s<]+))")
ALWAYS = ("CHANGELOG.md", "benchmarks/README.md")
"""Pages of the site's own menu."""


def on_files(files: Files, config: Any) -> Files:
    root = Path(config.docs_dir).parent
    wanted = [*ALWAYS]
    for page in files.documentation_pages():
        wanted += [str(path) for path in _links(page.content_string) if path.parts[0] == ".."]
    for path in dict.fromkeys(PurePosixPath(each.removeprefix("../")) for each in wanted):
        _add(files, config, root, path)
    return files


def _add(files: Files, config: Any, root: Path, path: PurePosixPath) -> None:
    """A file, and what it links to if it is a page."""
    if files.get_file_from_path(str(path)) is not None or not (root / path).is_file():
        return
    files.append(File(str(path), str(root), config.site_dir, config.use_directory_urls))
    if path.suffix == ".md":
        for link in _links((root / path).read_text(encoding="utf-8")):
            _add(files, config, root, PurePosixPath(normpath(path.parent / link)))


def _links(markdown: str) -> list[PurePosixPath]:
    return [PurePosixPath(link["in_brackets"] or link["plain"]) for link in LINK.finditer(markdown)]


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The site has no folder docs/: what is beside it in the repository is beside the pages there."""
    return markdown if "/" in page.file.src_uri else re.sub(r"(?<=\]\()(<?)\.\./", r"\1", markdown)
