"""Parallel: each GPU that is named computes its part of a step, with a copy of what is not streamed to all of them."""

from __future__ import annotations

from multigpu.multigpu_core.strategies.strategy import Strategy

STRATEGY = Strategy(
    "parallel",
    "lets the other GPUs compute a part of each step with a copy of the model, in proportion to their shares",
    Strategy.INTERLEAVE.assign,
    replicates=True,
)
