"""Placing a model's blocks on devices and serving them to the compute device."""

from .distribution import Distribution, DistributionError, Residency
from .staging import BlockStager, TransferCount
from .tensor_slots import TensorSlot

__all__ = ["BlockStager", "Distribution", "DistributionError", "Residency", "TensorSlot", "TransferCount"]
