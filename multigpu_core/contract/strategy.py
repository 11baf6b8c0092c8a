"""The strategies of splits: their names and what each does, as nodes, command line, editor and help show them."""

from __future__ import annotations

from enum import Enum


class Strategy(str, Enum):
    """In which blocks the offloaded bytes are taken. `summary` continues a sentence that begins with the name."""

    summary: str

    INTERLEAVE = (
        "interleave",
        "spreads the offloaded blocks over the model, so that their transfers can hide behind compute",
    )
    CONTIGUOUS = "contiguous", "offloads the beginning of the model in one piece"
    RELAY = (
        "relay",
        "lets the other GPUs compute the blocks that they store, so that activations travel instead of weights",
    )

    def __new__(cls, name: str, summary: str = "") -> Strategy:
        strategy = str.__new__(cls, name)
        strategy._value_ = name
        strategy.summary = summary
        return strategy

    @classmethod
    def _missing_(cls, value: object) -> Strategy:
        raise ValueError(f"There is no strategy {value!r}: it is one of {', '.join(one.value for one in cls)}.")

    @classmethod
    def all_names(cls) -> str:
        """The names as a phrase: ``interleave, contiguous or relay``."""
        *others, last = (strategy.value for strategy in cls)
        return f"{', '.join(others)} or {last}"

    @classmethod
    def all_summaries(cls) -> str:
        """What each strategy does, in one sentence without its full stop."""
        return "; ".join(f"{strategy.value} {strategy.summary}" for strategy in cls)
