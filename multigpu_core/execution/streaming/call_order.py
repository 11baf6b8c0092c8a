"""The order in which a model's offloaded modules are entered in a step: taken from its inventory, then learned."""

from __future__ import annotations

from collections.abc import Sequence


class CallOrder:
    """Offloaded modules by index. `expected` is the order of a step; a module that is called twice is in it twice.

    A step goes from one entry of its first offloaded module to the next. The first that ends teaches the order; later
    ones change it only when two in a row agree: a step that skips a block, as some guidance has every other time, is
    no new order.
    """

    def __init__(self, expected: Sequence[int]) -> None:
        self.expected = tuple(expected)
        self._is_learned = False
        self._running: list[int] = []
        self._previous: tuple[int, ...] = ()

    def entered(self, index: int) -> bool:
        """Note that offloaded module as entered; true where a step has ended with that and a new one begins."""
        is_new_step = bool(self._running) and self._running[0] == index
        if is_new_step:
            self._learn(tuple(self._running))
            self._running.clear()
        self._running.append(index)
        return is_new_step

    def teach(self, expected: Sequence[int]) -> None:
        """Expect this order, until a whole step has been seen."""
        if not self._is_learned:
            self.expected = tuple(expected)

    def break_off(self) -> None:
        """Forget the step that runs."""
        self._running.clear()

    def _learn(self, seen: tuple[int, ...]) -> None:
        if seen == self._previous or not self._is_learned:
            self._is_learned = True
            if seen != self.expected:
                self.expected = seen
        self._previous = seen
