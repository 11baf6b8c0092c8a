"""The strategies that come with MultiGPU, one a file, each as `STRATEGY`."""

from importlib import import_module
from pkgutil import iter_modules

from multigpu.multigpu_core.strategies.strategy import Strategies, Strategy


def built_in_strategies() -> Strategies:
    """The strategies of this folder: the default first, the others by name."""
    found = [import_module(f"{__name__}.{module.name}").STRATEGY for module in iter_modules(__path__)]
    return Strategies(tuple(sorted(found, key=lambda each: (each != Strategy.INTERLEAVE, each.name))))
