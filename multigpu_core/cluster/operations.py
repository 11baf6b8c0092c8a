"""The operations that a worker carries out, by name: nothing that is not on the list is ever called."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

import multigpu
from multigpu.multigpu_core.devices import DeviceRegistry

from .protocol import Activity, Reply
from .wire import Message, WireError, pack, unpack

Operation = Callable[..., Any]
MAX_ECHO_BYTES = 256 << 20
COMPARED_PACKAGES = ("torch", "transformers", "safetensors", "numpy")
"""Of these a result may depend on the version."""


class Operations:
    """What one worker can do. Each operation takes values by name, and returns values."""

    def __init__(
        self,
        device: str,
        registry: DeviceRegistry,
        operations: Mapping[str, Operation],
        holds: Callable[[], tuple[str, ...]] = tuple,
    ) -> None:
        """`device` is the one that the worker is for; `operations` are those beside `describe` and `echo`.

        `holds` names the models that they keep.
        """
        self._holds = holds
        self._current = ""
        self._device = device
        self._registry = registry
        self._operations: dict[str, Operation] = {"describe": self.describe, "echo": echo, **operations}
        self._begun = 0
        self._interrupted_up_to = 0

    def carry_out(self, operation: str, message: Message) -> Reply:
        """The reply to a call. Whatever goes wrong is in the reply."""
        self._begun += 1
        call = self._operations.get(operation)
        if call is None:
            known = ", ".join(sorted(self._operations))
            return Reply(None, f"A worker has no operation {operation!r}. It has: {known}.")
        self._current = operation
        hook = torch.nn.modules.module.register_module_forward_pre_hook(self._stop_if_interrupted)
        try:
            arguments = unpack(message)
            if not isinstance(arguments, dict) or not all(isinstance(name, str) for name in arguments):
                raise WireError("The values of an operation have names.")
            with self._registry.device_scope(self._device), torch.inference_mode():
                return Reply(pack(call(**arguments)))
        except Exception as error:  # ours, ComfyUI's, or a driver's: the one who asked is told
            return Reply(None, f"{type(error).__name__}: {error}")
        finally:
            hook.remove()
            self._current = ""

    def interrupt(self, number: int) -> None:
        """End the call of this number, counted from 1, and those before it, at the next module that a model calls.

        A number, because an interrupt overtakes the calls that wait, and may come after the end of its own.
        """
        self._interrupted_up_to = max(number, self._interrupted_up_to)

    def activity(self, machine: str) -> Activity:
        """What it does now, as the worker on `machine`."""
        return Activity(machine, self._device, self._current, self._holds())

    def describe(self, with_devices: bool = False) -> dict[str, Any]:
        """The versions of the worker and, `with_devices`, its machine's devices with their memory now."""
        described: dict[str, Any] = {"versions": versions_here(), "device": self._device, "devices": []}
        if with_devices:
            described["devices"] = [
                {
                    "name": info.name,
                    "title": info.marketing_name,
                    "total_bytes": info.total_bytes,
                    "free_bytes": info.free_bytes,
                }
                for info in self._registry.survey().devices
            ]
        return described

    def _stop_if_interrupted(self, module: Any, inputs: Any) -> None:
        if self._begun <= self._interrupted_up_to:
            raise InterruptedError("interrupted from home")


def echo(values: Any = None, answer_bytes: int = 0) -> torch.Tensor:
    """As many bytes as were asked for, whatever was sent: so the speed of a link is measured in both directions."""
    if not 0 <= answer_bytes <= MAX_ECHO_BYTES:
        raise ValueError(f"echo answers with at most {MAX_ECHO_BYTES:,} bytes.")
    return torch.zeros(answer_bytes, dtype=torch.uint8)


def versions_here() -> dict[str, str]:
    """The versions that matter to results, of this process."""
    found = {"multigpu": multigpu.__version__, "python": platform.python_version()}
    for package in COMPARED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = ""
    return found
