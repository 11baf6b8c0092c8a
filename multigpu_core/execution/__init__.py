"""Placing a model's blocks on devices and serving them to the compute device."""

from .distribution import Distribution, DistributionError, Residency
from .nested import replace_tensors
from .page_locked import PageLockedMemory
from .step_record import StepRecord
from .streamer import Streamer
from .tensor_parts import parts_of
from .tensor_slots import TensorSlot

__all__ = [
    "Distribution",
    "DistributionError",
    "PageLockedMemory",
    "Residency",
    "StepRecord",
    "Streamer",
    "TensorSlot",
    "parts_of",
    "replace_tensors",
]
