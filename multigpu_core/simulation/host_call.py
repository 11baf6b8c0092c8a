"""One call of an operator on host tensors that stand for the simulated ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .tensors import view_of


class HostCall:
    """An operator with host tensors in the place of the simulated ones among its arguments.

    `host` gives the host tensor for an argument, and leaves alone what is on the host already.
    """

    def __init__(
        self,
        operator: torch._ops.OpOverload,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        host: Callable[[Tensor], Tensor],
    ) -> None:
        # Some operators hand a number over where they declare a tensor; the other overloads take it.
        self._call: Any = operator.overloadpacket if _has_number_for_tensor(operator, args) else operator
        self._host = host
        self.stand_ins: dict[int, tuple[Tensor, Tensor]] = {}
        """Host tensors and what they stand for, by the identity of the former."""
        self._args = [self._converted(argument) for argument in args]
        self._kwargs = {name: self._converted(argument) for name, argument in kwargs.items()}
        if "device" in kwargs:
            self._kwargs.update(device="cpu", pin_memory=False)

    def run(self, generator: torch.Generator | None) -> Any:
        if generator is None:
            return self._call(*self._args, **self._kwargs)
        return self._call(*self._args, **{**self._kwargs, "generator": generator})

    @property
    def resized(self) -> list[tuple[Tensor, Tensor]]:
        """The stand-ins that have another size now, as `out=` arguments get it, and what they stand for."""
        return [(host, original) for host, original in self.stand_ins.values() if host.size() != original.size()]

    def _converted(self, argument: Any) -> Any:
        if isinstance(argument, (list, tuple)):
            return [self._converted(item) for item in argument]
        if not isinstance(argument, Tensor):
            return argument
        host = self._host(argument)
        if host is not argument:
            self.stand_ins[id(host)] = (host, argument)
        return host


class Results:
    """Turns the results of a host call into simulated tensors: arguments, views of them, or new ones by `place`."""

    def __init__(self, call: HostCall, place: Callable[[Tensor], Tensor]) -> None:
        self._stand_ins = call.stand_ins
        self._place = place
        self._owners = {
            host.untyped_storage().data_ptr(): original
            for host, original in self._stand_ins.values()
            if original.untyped_storage().nbytes()
        }

    def of(self, results: Any) -> Any:
        if isinstance(results, Tensor):
            return self._simulated(results)
        if isinstance(results, (list, tuple)):
            return type(results)(self.of(item) for item in results)
        return results

    def _simulated(self, result: Tensor) -> Tensor:
        if id(result) in self._stand_ins:
            return self._stand_ins[id(result)][1]
        pointer = result.untyped_storage().data_ptr() if result.untyped_storage().nbytes() else 0
        if pointer in self._owners:
            return view_of(self._owners[pointer], result)
        placed = self._place(result)
        if pointer:
            self._owners[pointer] = placed
        return placed


def _has_number_for_tensor(operator: torch._ops.OpOverload, args: Sequence[Any]) -> bool:
    declared = operator._schema.arguments
    return any(
        isinstance(value, (int, float)) and isinstance(argument.type, torch.TensorType)
        for argument, value in zip(declared, args, strict=False)
    )
