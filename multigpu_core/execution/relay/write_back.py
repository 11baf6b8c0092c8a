"""Originals on the compute device and their copies on a donor: what is written into a copy, the original gets, too."""

from __future__ import annotations

from weakref import ref

from torch import Tensor

from multigpu.multigpu_core.execution.device_copies import DeviceCopies


class WrittenCopy:
    """An original, not kept alive, and its copy, a tensor of which torch counts the changes."""

    def __init__(self, original: Tensor, copy: Tensor, device_copies: DeviceCopies) -> None:
        self._device_copies = device_copies
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
            with self._device_copies.beside(self.copy.device, original.device):
                original.copy_(self.copy)
            self._version = self.copy._version


class WrittenCopies:
    """The pairs of one remote run."""

    def __init__(self, device_copies: DeviceCopies) -> None:
        self._device_copies = device_copies
        self._written_copies: list[WrittenCopy] = []

    def add(self, original: Tensor, copy: Tensor) -> None:
        """Note a pair; one that is known already stays one."""
        if self.of_copy(copy) is None:
            self._written_copies.append(WrittenCopy(original, copy, self._device_copies))

    def synchronise(self) -> None:
        """Do so with every pair; one whose original nobody holds is over."""
        self._written_copies = [written for written in self._written_copies if written.original is not None]
        for written in self._written_copies:
            written.synchronise()

    def of_copy(self, copy: Tensor) -> WrittenCopy | None:
        for written in self._written_copies:  # a few, looked through for every argument of every block
            if written.copy is copy:
                return written
        return None

    def clear(self) -> None:
        self._written_copies.clear()
