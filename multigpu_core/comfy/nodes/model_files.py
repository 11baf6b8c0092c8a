"""Model files by the names that ComfyUI's lists show, and which of them is damaged when a loader fails.

A request over HTTP may name these files and no others. What loaders raise often says what is wrong, but not where.
"""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from multigpu.multigpu_core.allocation import HeaderError, check_header
from multigpu.multigpu_core.allocation.formats.header_error import DOWNLOAD_AGAIN
from multigpu.multigpu_core.allocation.inventory.of_file import Formats, model_suffixes
from multigpu.multigpu_core.comfy.host.comfyui_names import MissingNameError
from multigpu.multigpu_core.comfy.host.compatibility import folder_paths

_FOLDERS_BY_INPUT = {
    "unet": ("diffusion_models", "unet_gguf"),
    "ckpt": ("checkpoints",),
    "clip": ("text_encoders", "clip_gguf", "clip_vision"),
    "vae": ("vae",),
    "control": ("controlnet",),
}
"""Where the inputs of loaders look first, by how their names begin: one name may be in several folders."""


class UnknownFileError(ValueError):
    """A name that is not in any of ComfyUI's lists of models."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name!r} is not in any of ComfyUI's model folders. Choose a file that the node lists.")


def is_model_file(value: object, suffixes: Collection[str]) -> bool:
    """Whether an input's value is the name of a file with a model in it."""
    return isinstance(value, str) and Path(value).suffix.lower() in suffixes


def model_file(name: str, input_name: str) -> Path:
    """The file that a node's input names, found as ComfyUI lists it: `name` is never taken for a path.

    Raises:
        UnknownFileError: ComfyUI lists no such file.
    """
    first = next((names for begin, names in _FOLDERS_BY_INPUT.items() if input_name.startswith(begin)), ())
    known = folder_paths.folder_names_and_paths
    others = [folder for folder in known if folder not in (*first, "custom_nodes", "configs")]
    for folder in (*first, *others):
        if folder in known and name in folder_paths.get_filename_list(folder):
            path = folder_paths.get_full_path(folder, name)
            if path is not None:
                return Path(path)
    raise UnknownFileError(name)


@contextmanager
def naming_damaged_files(inputs: Mapping[str, Any], formats: Formats) -> Iterator[None]:
    """Run a loader on these inputs.

    Raises:
        HeaderError: the loader raised, and a file among its inputs is damaged; the file is named as the input names it.
            Any other exception of the loader goes through unchanged.
    """
    try:
        yield
    except Exception as error:
        if (damaged := _damage(inputs, formats)) is not None:
            raise damaged from error
        raise


def _damage(inputs: Mapping[str, Any], formats: Formats) -> HeaderError | None:
    """What is wrong with the first of the inputs' files that is damaged."""
    for input_name, value in inputs.items():
        if is_model_file(value, model_suffixes(formats)):
            try:
                _check(model_file(value, input_name), formats)
            except HeaderError as error:
                return HeaderError(Path(value), error.field, error.reason)
            except (UnknownFileError, OSError, MissingNameError):
                continue  # the loader's own error says more
    return None


def _check(path: Path, formats: Formats) -> None:
    """Raise HeaderError for a file whose format shows that it is damaged."""
    with path.open("rb") as file:
        is_of_pytorch = file.read(2) == b"PK"
    if any(path.suffix.lower() in each.suffixes for each in formats):
        check_header(path, formats)
    elif is_of_pytorch and not zipfile.is_zipfile(path):
        raise HeaderError(path, "archive", f"has no table of contents; {DOWNLOAD_AGAIN}")
