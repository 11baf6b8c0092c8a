"""Originals on the compute device and their copies on a donor: what is written into a copy, the original gets, too."""

from __future__ import annotations

from weakref import ref

from torch import Tensor

from multigpu.multigpu_core.execution.device_copies import Hops


class Twin:
    """An original, not kept alive, and its copy, a tensor of which torch counts the changes."""

    def __init__(self, original: Tensor, copy: Tensor, hops: Hops) -> None:
        self._hops = hops
        self._original = ref(original)
        self.follow(copy)

    @property
    def original(self) -> Tensor | None:
        """None when nobody holds it any more."""
        return self._original()

    def follow(self, copy: Tensor) -> None:
        """The copy is this tensor from now on; it equals the original."""
        self.copy = copy
        self._version = copy._version

    def synchronise(self) -> None:
        """Bring what was written into the copy since the last time to the original."""
        original = self._original()
        if original is not None and self.copy._version != self._version:
            with self._hops.beside(self.copy.device, original.device):
                original.copy_(self.copy)
            self._version = self.copy._version


class Twins:
    """The pairs of one leg."""

    def __init__(self, hops: Hops) -> None:
        self._hops = hops
        self._twins: list[Twin] = []

    def add(self, original: Tensor, copy: Tensor) -> None:
        """Note a pair; one that is known already stays one."""
        if self.of_copy(copy) is None:
            self._twins.append(Twin(original, copy, self._hops))

    def synchronise(self) -> None:
        """Do so with every pair; one whose original nobody holds is over."""
        self._twins = [twin for twin in self._twins if twin.original is not None]
        for twin in self._twins:
            twin.synchronise()

    def of_copy(self, copy: Tensor) -> Twin | None:
        for twin in self._twins:  # a few, looked through for every argument of every block
            if twin.copy is copy:
                return twin
        return None

    def clear(self) -> None:
        self._twins.clear()
