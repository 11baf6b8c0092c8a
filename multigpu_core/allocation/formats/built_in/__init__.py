"""The formats that come with MultiGPU, one a file, each as `FORMAT`."""

from importlib import import_module
from pkgutil import iter_modules

from multigpu.multigpu_core.allocation.formats.file_format import FileFormat

BUILT_IN_FORMATS: tuple[FileFormat, ...] = tuple(
    import_module(f"{__name__}.{module.name}").FORMAT for module in iter_modules(__path__)
)
