"""Name the damaged file when a loader fails on it: what loaders raise often says what is wrong, but not where."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from multigpu.multigpu_core.allocation import HeaderError, check_header
from multigpu.multigpu_core.allocation.formats.header_error import DOWNLOAD_AGAIN
from multigpu.multigpu_core.allocation.inventory.of_file import Formats

from .model_files import UnknownFileError, is_model_file, model_file


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
        if is_model_file(value, formats):
            try:
                _check(model_file(value, input_name), formats)
            except HeaderError as error:
                return HeaderError(Path(value), error.field, error.reason)
            except (UnknownFileError, OSError):
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
