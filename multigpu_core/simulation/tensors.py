"""Tensors on a simulated device: ordinary tensors of the PrivateUse1 device type whose bytes lie in host memory.

A tensor's storage carries the simulated device and a pointer to real host bytes, so views, parameters, `.data` and
deep copies are torch's own, and a device's bytes are given back at the moment when torch frees the storage.
"""

from __future__ import annotations

import ctypes
import weakref
from typing import Any

import torch
from torch import Tensor

from multigpu.multigpu_core.simulation.memory.ledger import SimulatedDevice

# DLPack is the one door through which Python can give a storage both a pointer and a device of an extension.
_DLPACK_EXTENSION_DEVICE = 12
_HOST_KERNELS = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
_capsule_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


class _DLPackHead(ctypes.Structure):
    """The first fields of DLPack's DLManagedTensor."""

    _fields_ = [("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32)]


def natively(operator: torch._ops.OpOverload, *args: Any, **kwargs: Any) -> Any:
    """Run the host kernel of an operator that touches only sizes, strides and storages on the tensors themselves."""
    return operator.redispatch(_HOST_KERNELS, *args, **kwargs)


def host_view(tensor: Tensor) -> Tensor:
    """A CPU tensor over the same bytes; valid only while `tensor` lives."""
    storage = tensor.untyped_storage()
    if storage.nbytes() == 0:
        return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype)
    bytes_ = torch._C._construct_storage_from_data_pointer(storage.data_ptr(), torch.device("cpu"), storage.nbytes())
    view = torch.empty(0, dtype=tensor.dtype)
    return view.set_(bytes_, tensor.storage_offset(), tensor.size(), tensor.stride())


def place(values: Tensor, device: SimulatedDevice) -> Tensor:
    """Make the CPU tensor `values`, whose storage nobody else may use from now on, a tensor of `device`.

    Raises `torch.OutOfMemoryError` when the storage does not fit.
    """
    storage = values.untyped_storage()
    size = storage.nbytes()
    device.charge(size)
    raw = bytes_of(values)
    capsule = torch._C._to_dlpack(raw)
    head = _DLPackHead.from_address(_capsule_pointer(capsule, b"dltensor"))
    head.device_type, head.device_id = _DLPACK_EXTENSION_DEVICE, device.torch_device.index
    placed = torch._C._from_dlpack(capsule)
    weakref.finalize(placed.untyped_storage(), device.release, size).atexit = False
    return view_of(placed, values)


def bytes_of(values: Tensor) -> Tensor:
    """The whole storage of a CPU tensor."""
    storage = values.untyped_storage()
    return torch.empty(0, dtype=torch.uint8).set_(storage, 0, (storage.nbytes(),), (1,))


def view_of(owner: Tensor, pattern: Tensor) -> Tensor:
    """A tensor over the storage of `owner` with the dtype, sizes, strides and offset of `pattern`."""
    size = owner.untyped_storage().nbytes()
    whole = natively(torch.ops.aten.view.dtype, owner, torch.uint8) if owner.dtype != torch.uint8 else owner
    usable = size - size % pattern.element_size()
    whole = natively(torch.ops.aten.as_strided.default, whole, (usable,), (1,), 0)
    typed = whole.view(pattern.dtype)
    view: Tensor = natively(
        torch.ops.aten.as_strided.default, typed, pattern.size(), pattern.stride(), pattern.storage_offset()
    )
    return view
