"""Placing a model's blocks on devices and serving them to the compute device."""

from .distribution import Distribution, DistributionError, Residency
from .nested import replace_tensors
from .page_locked import PageLockedMemory
from .streamer import Streamer, TransferCount
from .tensor_slots import TensorSlot

__all__ = [
    "Distribution",
    "DistributionError",
    "PageLockedMemory",
    "Residency",
    "Streamer",
    "TensorSlot",
    "TransferCount",
    "replace_tensors",
]
