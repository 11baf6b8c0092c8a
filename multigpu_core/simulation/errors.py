"""What can go wrong when devices are simulated."""

from __future__ import annotations


class SimulationUnavailableError(RuntimeError):
    """This process cannot simulate devices; `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"Accelerators cannot be simulated: {reason}.")
        self.reason = reason


class SimulationSpecError(ValueError):
    """A description of simulated devices, `spec`, that cannot be read; `part` is the place."""

    def __init__(self, spec: str, part: str, reason: str) -> None:
        super().__init__(
            f"{spec!r} does not describe simulated devices: {part!r} {reason}. "
            "Write sizes such as '8gb', '8gb,4gb', or '2x8gb' for two of a kind (units b, kb, mb, gb, tb)."
        )
        self.spec = spec
        self.part = part
