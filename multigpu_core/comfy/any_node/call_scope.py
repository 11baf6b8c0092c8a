"""Everything that makes one pack's code run on a chosen device for the length of a call, and its undo."""

from __future__ import annotations

import functools
import re
import threading
import traceback
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch

from multigpu.multigpu_core.comfy.host.host import Host
from multigpu.multigpu_core.comfy.host.scope import Devices

from .choice import Choice
from .in_comfyui import SAMPLING
from .kept.device_globals import devices_set
from .kept.held_devices import accelerators_held
from .kept.insistence import NodeNotMovedError, insisting_calls, reason_of, runs_in_worker
from .kept.kept_models import KeptModels
from .kept.module_caches import ModuleCaches
from .kept.namespaces import PackNamespaces
from .kept.slots import Slot, slots_of
from .libraries.device_arguments import LIBRARIES
from .libraries.interception import Interception
from .libraries.redirection import REDIRECTING
from .libraries.subprocesses import STARTING
from .libraries.threads import CARRYING, on_this_thread

_ABOUT_DEVICES = re.compile(
    r"same device|two devices|Input type .* weight type|invalid device ordinal|is on (?:cpu|[a-z]+:\d)|device type",
    re.IGNORECASE,
)
"""What torch says where the devices of one operation differ."""


def library_interception() -> Interception:
    """The replaced functions of Python and of libraries, one set for all packs."""
    return Interception((*CARRYING, *STARTING, *LIBRARIES, *REDIRECTING, *SAMPLING))


class SelfLoadingPack:
    """A pack whose nodes load their own models. Calls with a chosen device take turns: its globals are everybody's."""

    def __init__(
        self,
        path: str,
        nodes: Callable[[], Iterable[type]],
        interception: Interception,
        kept: KeptModels,
        redirects: bool,
    ) -> None:
        """`path` is its folder or file, empty for ComfyUI itself, whose globals are left alone."""
        self.caches = ModuleCaches()
        self.kept = kept
        self._redirects = redirects
        self._path = path
        self._namespaces = PackNamespaces(path, nodes)
        self._interception = interception
        self._turn = threading.RLock()  # reentrant: a node of the pack may call another

    def choice(self, host: Host, devices: Devices) -> Choice:
        """The choice of these devices for one call of the pack's code."""
        choice = Choice(host.registry, devices, host.registry.torch_device(host.default_device()))
        return replace(choice, redirects=self._redirects or choice.changes_family)

    @contextmanager
    def running(self, node_id: str, choice: Choice) -> Iterator[None]:
        """All that chooses a device in the pack chooses this one until the block is left.

        Raises:
            NodeNotMovedError: in place of an error about devices that the block raises.
        """
        try:
            with self._on(choice):
                yield
        except Exception as error:
            explained = self._explained(node_id, choice, error)
            if explained is error:
                raise
            raise explained from error

    @contextmanager
    def _on(self, choice: Choice) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(self._turn)
            stack.enter_context(self._interception.installed())
            stack.enter_context(on_this_thread(choice))
            if self._path:
                slots, slots_after = self.slots(), functools.cache(self.slots)
                stack.enter_context(devices_set(slots, slots_after, choice))
                stack.enter_context(self.caches.shown(slots, slots_after, choice))
            yield

    def slots(self) -> list[Slot]:
        return slots_of(self._namespaces.find())

    def _explained(self, node_id: str, choice: Choice, error: Exception) -> Exception:
        """The error of a node that could not be moved, or `error` itself where it is about something else."""
        if not isinstance(error, RuntimeError) or isinstance(error, NodeNotMovedError):
            return error
        if not _ABOUT_DEVICES.search(str(error)):
            return error
        files = {frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)}
        return self.not_moved(node_id, choice, str(error).splitlines()[0], files)

    def not_moved(
        self, node_id: str, choice: Choice, problem: str, failed_in: Container[str] = ()
    ) -> NodeNotMovedError:
        """The error that names the calls which insist on another device, first those in files that it `failed_in`."""
        namespaces = self._namespaces.find() if self._path else []
        calls = insisting_calls(namespaces, self._path, choice, failed_in)
        reason = reason_of(calls, runs_in_worker(namespaces))
        return NodeNotMovedError(node_id, choice.name, problem.rstrip(". ") + ".", calls, reason)


def strays(values: Iterable[object], given: Iterable[object], choice: Choice) -> frozenset[torch.device]:
    """The accelerators other than the chosen device and those of what was `given` on which values are."""
    allowed = accelerators_held(list(given)) | {choice.device}
    return accelerators_held(list(values)) - allowed
