"""Set the devices that a node pack keeps in globals of its modules, for the length of a call.

A global belongs to everybody, so calls with different devices take turns, and each leaves what it found. Modules that
a call imports ask for their devices inside the call; they get what they would have got outside it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType

import torch

from multigpu.multigpu_core.comfy.host.compatibility import model_management as mm
from multigpu.multigpu_core.comfy.host.scope import Devices
from multigpu.multigpu_core.contract.loaders import PackDevices


class PackGlobals:
    """The device globals of one pack, whose modules are those under the name `root`."""

    def __init__(self, root: str, pack: PackDevices) -> None:
        self._root = root
        self._pack = pack
        self._turn = threading.RLock()  # reentrant: a node of the pack may call another

    @contextmanager
    def set_to(self, devices: Devices) -> Iterator[None]:
        """Every global that holds a device holds one of `devices` until the block is left."""
        wanted = dict.fromkeys(self._pack.device_globals, devices.compute)
        if devices.offload is not None:
            wanted.update(dict.fromkeys(self._pack.offload_globals, devices.offload))
        with self._turn:
            modules = self._modules()
            found = [(vars(module), name, vars(module)[name]) for module in modules for name in _held(module, wanted)]
            for variables, name, _ in found:
                variables[name] = wanted[name]
            try:
                yield
            finally:
                for variables, name, device in found:
                    variables[name] = device
                self._reset_imported(modules)

    def _reset_imported(self, known: list[ModuleType]) -> None:
        names = (*self._pack.device_globals, *self._pack.offload_globals)
        for module in self._modules():
            if module in known:
                continue
            for name in _held(module, dict.fromkeys(names)):
                is_compute = name in self._pack.device_globals
                vars(module)[name] = mm.get_torch_device() if is_compute else mm.unet_offload_device()

    def _modules(self) -> list[ModuleType]:
        inside = f"{self._root}."
        return [
            module
            for name, module in list(sys.modules.items())
            if (name == self._root or name.startswith(inside)) and isinstance(module, ModuleType)
        ]


def _held(module: ModuleType, names: Mapping[str, object]) -> list[str]:
    return [name for name in names if isinstance(vars(module).get(name), torch.device)]
