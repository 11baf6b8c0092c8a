"""The inventory of a model file, from its header: no weight is read."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from multigpu.multigpu_core.allocation.formats.gguf_header import MAGIC, read_gguf_header
from multigpu.multigpu_core.allocation.formats.header_error import HeaderError
from multigpu.multigpu_core.allocation.formats.safetensors_header import read_safetensors_header
from multigpu.multigpu_core.allocation.formats.stored_tensor import StoredTensor

from .checkpoint_parts import CheckpointPart, select_part
from .execution_order import order_as_known
from .inventory import Inventory
from .of_tensors import inventory_of_tensors

_ZIP = b"PK\x03\x04"
"""How what torch.save writes begins, as .ckpt, .pt and .pth files."""
_NO_HEADER = "is a file of PyTorch's, which cannot be planned unread; only .safetensors and .gguf files have a header"


def inventory_of_file(path: str | PathLike[str], *, part: CheckpointPart | None = None) -> Inventory:
    """The blocks of a .safetensors or .gguf file in execution order, their parameters under the file's names.

    Of a checkpoint that packs several models, `part` chooses one; by default the diffusion model. The format is
    recognised by the file's content. Raises HeaderError for a damaged file or another format, CheckpointPartError for
    a part that the file does not have, OSError where it cannot be read.
    """
    file = Path(path)
    return inventory_of_tensors(select_part(file, _tensors_of(file), part), order_as_known)


def check_header(path: Path) -> None:
    """Raise HeaderError where a .safetensors or .gguf file is damaged, OSError where it cannot be read."""
    _tensors_of(path)


def _tensors_of(file: Path) -> list[StoredTensor]:
    with file.open("rb") as opened:
        begins = opened.read(len(MAGIC))
    if begins == _ZIP:
        raise HeaderError(file, "format", _NO_HEADER)
    return read_gguf_header(file) if begins == MAGIC else read_safetensors_header(file)
