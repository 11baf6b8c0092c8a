"""What a strategy is, and the list of those that can be chosen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from .former_enum import FormerEnum, FormerMember

if TYPE_CHECKING:
    from multigpu.multigpu_core.allocation.inventory.inventory import Block


class Assign(Protocol):
    """How a strategy chooses: it returns the device of each of `blocks`, in their order.

    The blocks are those that may be offloaded, in the order of execution; each has `size_bytes` above 0.
    `target_bytes` says about how many of their bytes each device shall store, the compute device first; the sum is
    exact. No device may get more than its `free_bytes`. Asking for the bytes that an answer gave must give it again:
    a plan is written, and read back, as bytes by device.
    """

    def __call__(
        self,
        blocks: Sequence[Block],
        compute_device: str,
        target_bytes: Mapping[str, int],
        free_bytes: Mapping[str, int],
    ) -> Sequence[str]: ...


class _BuiltIn:
    """A strategy of ours by its name, as in `Strategy.RELAY`: loaded when it is asked for, since it needs this file."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._module = f"{__package__}.built_in.{name.lower()}"

    def __get__(self, instance: object, owner: type) -> Strategy:
        strategy: Strategy = import_module(self._module).STRATEGY
        return strategy


@dataclass(frozen=True)
class Strategy(FormerMember, metaclass=FormerEnum):
    """Which blocks each device of a split stores; its `name` identifies it.

    `summary` continues a sentence that begins with the name. Where it `relays`, accelerators other than the compute
    device compute the blocks that they store. Where it `replicates`, each accelerator that is named computes a part of
    every step, in proportion to its share, and stores all that the compute device stores; `assign` is then asked with
    these as one device, the compute device.
    """

    name: str
    summary: str = field(compare=False)
    assign: Assign = field(compare=False, repr=False)
    relays: bool = field(default=False, compare=False)
    replicates: bool = field(default=False, compare=False)

    INTERLEAVE = _BuiltIn()
    CONTIGUOUS = _BuiltIn()
    PARALLEL = _BuiltIn()
    RELAY = _BuiltIn()


class UnknownStrategyError(ValueError):
    """A name that no strategy has."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        self.name = name
        super().__init__(f"There is no strategy {name!r:.80}: it is one of {', '.join(known)}.")


@dataclass(frozen=True)
class Strategies:
    """The strategies that can be chosen, in the order in which users see them."""

    known: tuple[Strategy, ...]

    def __iter__(self) -> Iterator[Strategy]:
        return iter(self.known)

    @property
    def names(self) -> list[str]:
        return [strategy.name for strategy in self]

    @property
    def summaries(self) -> str:
        """What each strategy does, in one sentence without its full stop."""
        return "; ".join(f"{strategy.name} {strategy.summary}" for strategy in self)

    def named(self, name: str) -> Strategy:
        """Return the strategy of that name; raise UnknownStrategyError, which lists all, where there is none."""
        for strategy in self:
            if strategy.name == name:
                return strategy
        raise UnknownStrategyError(name, self.names)
