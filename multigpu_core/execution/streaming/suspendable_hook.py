"""Forward pre-hooks that can be off for a while: a layer without hooks is called several times faster.

All of a block's are switched for each of its calls, twenty and more at once, so that is done here in one loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn


class SuspendableHook:
    """Does not keep the module alive.

    With `with_kwargs` the hook gets keyword arguments, too; one that is `first` runs before those of other extensions.
    """

    def __init__(
        self, module: nn.Module, hook: Callable[..., Any], *, with_kwargs: bool = False, first: bool = False
    ) -> None:
        self._hook = hook
        self._first = first
        self._handle = module.register_forward_pre_hook(hook, prepend=first, with_kwargs=with_kwargs)
        self._id = self._handle.id
        self._hooks = module._forward_pre_hooks

    def remove(self) -> None:
        self._handle.remove()

    @staticmethod
    def suspend(those: Iterable[SuspendableHook]) -> None:
        for one in those:
            one._hooks.pop(one._id, None)

    @staticmethod
    def resume(those: Iterable[SuspendableHook]) -> None:
        for one in those:
            hooks = one._hooks
            hooks[one._id] = one._hook
            if one._first and len(hooks) > 1:
                hooks.move_to_end(one._id, last=False)  # type: ignore[attr-defined]
