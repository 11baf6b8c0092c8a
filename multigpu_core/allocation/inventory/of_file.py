"""The inventory of a model file, from its header: no weight is read."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from multigpu.multigpu_core.allocation.formats.built_in import BUILT_IN_FORMATS
from multigpu.multigpu_core.allocation.formats.built_in.safetensors import FORMAT as SAFETENSORS
from multigpu.multigpu_core.allocation.formats.file_format import FIRST_BYTES, FileFormat
from multigpu.multigpu_core.allocation.formats.header_error import HeaderError
from multigpu.multigpu_core.allocation.formats.stored_tensor import StoredTensor

from .checkpoint_parts import CheckpointPart, select_part
from .inventory import Inventory
from .of_tensors import inventory_of_tensors

_ZIP = b"PK\x03\x04"
"""How what torch.save writes begins, as .ckpt, .pt and .pth files."""
_NO_HEADER = "is a PyTorch checkpoint, which has no header to plan from; use a .safetensors or .gguf file"

_SUFFIXES_WITHOUT_HEADER = frozenset({".ckpt", ".pt", ".pt2", ".pth", ".bin"})

Formats = Sequence[FileFormat]


def inventory_of_file(
    path: str | PathLike[str], *, part: CheckpointPart | None = None, formats: Formats = BUILT_IN_FORMATS
) -> Inventory:
    """The blocks of a model file in execution order, their parameters under the file's names.

    Of a checkpoint that packs several models, `part` chooses one; by default the diffusion model. The format is
    recognised by the file's content. Raises HeaderError for a damaged file or another format, CheckpointPartError for
    a part that the file does not have, OSError where it cannot be read.
    """
    file = Path(path)
    return inventory_of_tensors(select_part(file, _tensors_of(file, formats), part))


def model_suffixes(formats: Formats = BUILT_IN_FORMATS) -> frozenset[str]:
    """What the names of model files end in, in lower case: those of `formats`, and of what torch.save writes."""
    return _SUFFIXES_WITHOUT_HEADER.union(*(each.suffixes for each in formats))


def check_header(path: Path, formats: Formats = BUILT_IN_FORMATS) -> None:
    """Raise HeaderError where a file of one of `formats` is damaged, OSError where it cannot be read."""
    _tensors_of(path, formats)


def _tensors_of(file: Path, formats: Formats) -> list[StoredTensor]:
    with file.open("rb") as opened:
        begins = opened.read(FIRST_BYTES)
    if begins.startswith(_ZIP):
        raise HeaderError(file, "format", _NO_HEADER)
    # What nobody recognises is read as .safetensors, whose error says what is wrong with it.
    found = next((each for each in formats if each.recognises(begins)), SAFETENSORS)
    return list(found.read_header(file))
