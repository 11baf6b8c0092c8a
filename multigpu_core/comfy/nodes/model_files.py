"""Model files by the names that ComfyUI's lists show: what a request over HTTP may name, and nothing else."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from multigpu.multigpu_core.allocation.inventory.of_file import Formats

SUFFIXES_WITHOUT_HEADER = frozenset({".ckpt", ".pt", ".pt2", ".pth", ".bin"})
_FOLDERS_BY_INPUT = {
    "unet": ("diffusion_models", "unet_gguf"),
    "ckpt": ("checkpoints",),
    "clip": ("text_encoders", "clip_gguf", "clip_vision"),
    "vae": ("vae",),
    "control": ("controlnet",),
}
"""Where the inputs of loaders look first, by how their names begin: one name may be in several folders."""


class UnknownFileError(ValueError):
    """A name that is in none of ComfyUI's lists of models."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name!r} is in none of ComfyUI's model folders. Choose a file that the node lists.")


def is_model_file(value: object, formats: Formats) -> bool:
    """Whether an input's value is the name of a file with a model in it."""
    suffixes = SUFFIXES_WITHOUT_HEADER.union(*(each.suffixes for each in formats))
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
