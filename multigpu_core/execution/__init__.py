"""Placing a model's blocks on devices and serving them to the compute device."""

from multigpu.multigpu_core.execution.parallel.replicas import Job, Replicas, work_for
from multigpu.multigpu_core.execution.storage.pinned_memory import PinnedMemory
from multigpu.multigpu_core.execution.storage.tensor_parts import parts_of
from multigpu.multigpu_core.execution.storage.tensor_slots import TensorSlot
from multigpu.multigpu_core.execution.streaming.streamer import Streamer

from .distribution import Distribution, DistributionError, Residency
from .nested import replace_tensors
from .step_record import StepRecord

__all__ = [
    "Distribution",
    "DistributionError",
    "Job",
    "PinnedMemory",
    "Replicas",
    "Residency",
    "StepRecord",
    "Streamer",
    "TensorSlot",
    "parts_of",
    "replace_tensors",
    "work_for",
]
