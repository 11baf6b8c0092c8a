"""Entering simulated devices into PyTorch, once per process, under the name of an out-of-tree backend."""

from __future__ import annotations

from functools import partial
from types import ModuleType
from typing import Any

import torch

from .errors import SimulationUnavailableError
from .generator import SimulatedGenerator
from .missing_parts import let_torch_find_devices
from .operators import OperatorRunner

# Kernels of PyTorch that pick their way by device type and know no simulated one.
_CHOOSING_BY_DEVICE = (
    "aten::copy_",
    "aten::convolution",
    "aten::convolution_backward",
    "aten::scaled_dot_product_attention",
)
_COMPOSITE_KINDS = ("CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional")


def registered_backend() -> ModuleType | None:
    """The device module of the backend that this process has registered, ours or another; None before."""
    return getattr(torch, torch._C._get_privateuse1_backend_name(), None)


def register(backend: str, module: ModuleType, runner: OperatorRunner) -> list[torch.library.Library]:
    """Make `backend` a device type of this process; the returned libraries must live as long as it is used.

    Raises `SimulationUnavailableError` where PyTorch is older than 2.10 or has an out-of-tree backend already.
    """
    try:
        from torch.utils.backend_registration import _setup_privateuseone_for_python_backend as set_up
    except ImportError:
        raise SimulationUnavailableError(f"PyTorch {torch.__version__} is too old; 2.10 or later can do it") from None
    if registered_backend() is not None:
        taken = torch._C._get_privateuse1_backend_name()
        raise SimulationUnavailableError(f"this process uses the backend {taken!r} already; start a fresh one")
    set_up(rename=backend, backend_module=module)
    torch.Generator = SimulatedGenerator  # type: ignore[misc]
    let_torch_find_devices(backend, module)
    # A compiled model ends at a device's operators.
    run: Any = torch.compiler.disable(runner)  # type: ignore[no-untyped-call]
    fallback: Any = torch.library.Library("_", "IMPL")  # type: ignore[no-untyped-call]
    fallback.fallback(run, "PrivateUse1")
    kernels: Any = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    for name in (*_CHOOSING_BY_DEVICE, *_operators_with_their_own_host_kernel()):
        kernels.impl(name, partial(run, _overload(name)), "PrivateUse1")
    attention = "aten::scaled_dot_product_attention"
    kernels.impl(attention, partial(run, _overload(attention)), "AutogradPrivateUse1")
    kernels.impl("aten::_has_compatible_shallow_copy_type", runner.shares_tensor_type, "PrivateUse1")
    return [fallback, kernels]


def _operators_with_their_own_host_kernel() -> list[str]:
    """Composites that run differently on the CPU; left alone, simulated numbers would differ from the CPU's."""
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    return [
        name
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("aten::")
        and has_kernel(name, "CPU")
        and any(has_kernel(name, composite) for composite in _COMPOSITE_KINDS)
        and name not in _CHOOSING_BY_DEVICE
    ]


def _overload(qualified_name: str) -> Any:
    name, _, overload = qualified_name.removeprefix("aten::").partition(".")
    return getattr(getattr(torch.ops.aten, name), overload or "default")
