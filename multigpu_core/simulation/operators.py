"""Running operators for simulated devices: each one on the CPU, with the rules of real devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from multigpu.multigpu_core.simulation.deferral import POISON
from multigpu.multigpu_core.simulation.deferred_work import copy_later, rehearse
from multigpu.multigpu_core.simulation.memory.ledger import SimulatedDevice
from multigpu.multigpu_core.simulation.timeline import Timeline

from .host_call import HostCall, Results
from .launches import Launches
from .tensors import bytes_of, host_view, natively, place

aten = torch.ops.aten
_SET_STORAGE = frozenset(
    {aten.set_.source_Storage, aten.set_.source_Storage_storage_offset, aten.set_.source_Tensor, aten.set_.default}
)
_ALLOCATORS = frozenset({aten.empty.memory_format, aten.empty_strided.default})
# Real devices accept indices that lie on the CPU.
_INDEXING = frozenset({aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index})


class OperatorRunner:
    """The kernel behind every operator on simulated tensors.

    Operators that only describe memory run on the simulated tensors themselves. All others run on CPU views of them,
    and what they return is placed on the device of the inputs or, for factories, on the one that was asked for.
    Raises `RuntimeError` where an operator mixes devices and `torch.OutOfMemoryError` where a result does not fit.
    """

    def __init__(
        self,
        find_device: Callable[[torch.device], SimulatedDevice],
        backend: str,
        timeline: Timeline,
        launches: Launches,
    ) -> None:
        self._find_device = find_device
        self._backend = backend
        self._timeline = timeline
        self.launches = launches

    def __call__(self, operator: torch._ops.OpOverload, *args: Any, **kwargs: Any) -> Any:
        if operator.is_view or operator in _SET_STORAGE:
            return natively(operator, *args, **kwargs)
        if operator is aten.copy_.default:
            return self._copy(*args)
        if operator is aten.resize_.default:
            return self._resize(*args)
        if operator is aten.record_stream.default:
            return self._timeline.used_by_stream(args[0], args[1].stream_id)
        if operator is aten._local_scalar_dense.default:
            self._timeline.read_by_host(args[0])
        if operator is aten.scaled_dot_product_attention.default and _wants_gradients(args):
            return _differentiable_attention(*args, **kwargs)
        return self._compute(operator, args, kwargs)

    def shares_tensor_type(self, tensor: Tensor, other: Tensor) -> bool:
        """Whether `tensor.data = other` is possible: a parameter stays the same object when its module moves."""
        return tensor.layout == other.layout == torch.strided

    def _copy(self, destination: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
        begin = None
        if self._timeline.is_deferring:
            run, begin = copy_later(destination, source, self._timeline.blocks)
        else:
            run = partial(_copy_now, self._host(destination), self._host(source))
        self._timeline.copied(source, destination, non_blocking, run, begin)
        return destination

    def _resize(self, tensor: Tensor, size: Sequence[int], memory_format: torch.memory_format | None = None) -> Tensor:
        pattern = torch.empty(size, dtype=tensor.dtype, device="meta")
        if pattern.nbytes + tensor.storage_offset() * tensor.element_size() > tensor.untyped_storage().nbytes():
            self._timeline.current_stream(tensor.device).synchronize()
            grown = torch.empty(size, dtype=tensor.dtype)
            kept = min(tensor.numel(), grown.numel())
            grown.view(-1)[:kept].copy_(host_view(tensor).reshape(-1)[:kept])
            return self._replace(tensor, grown)
        natively(aten.resize_.default, tensor, size, memory_format=memory_format)
        return tensor

    def _compute(self, operator: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        target = self._target(operator, args, kwargs)
        self.launches.check(str(operator._schema.name), target.torch_device)
        if operator in _ALLOCATORS:
            return self._allocate(operator, args, kwargs, target)
        generator = None
        if torch.Tag.nondeterministic_seeded in operator.tags and _takes_generator(operator):
            generator = kwargs.get("generator") or target.generator
        if self._timeline.is_deferring:
            rehearsal = rehearse(operator, args, kwargs, generator, self._timeline.blocks)
            if rehearsal is not None:
                placed, run = rehearsal.place(partial(self._place, device=target), self._timeline.blocks)
                self._timeline.operator_ran(operator, target.torch_device, args, kwargs, placed, run)
                return placed
            self._timeline.current_stream(target.torch_device).synchronize()
        call = HostCall(operator, args, kwargs, self._host)
        results = call.run(generator)
        for host, original in call.resized:
            self._replace(original, host)
        placed = Results(call, partial(self._place, device=target)).of(results)
        self._timeline.operator_ran(operator, target.torch_device, args, kwargs, placed)
        return placed

    def _allocate(
        self, operator: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], target: SimulatedDevice
    ) -> Tensor:
        described = operator(*args, **{**kwargs, "device": "meta", "pin_memory": False})
        target.require(described.untyped_storage().nbytes())
        values = HostCall(operator, args, kwargs, self._host).run(None)
        if self._timeline.is_deferring:
            bytes_of(values).fill_(POISON)
        placed = self._place(values, target)
        self._timeline.operator_ran(operator, target.torch_device, args, kwargs, placed)
        return placed

    def _place(self, values: Tensor, device: SimulatedDevice) -> Tensor:
        placed = place(values, device)
        self._timeline.allocated(placed, values)
        return placed

    def _replace(self, tensor: Tensor, values: Tensor) -> Tensor:
        """Give `tensor` new sizes and a new storage, as an `out=` argument gets them."""
        source = self._place(values, self._find_device(tensor.device))
        natively(
            aten.set_.source_Storage_storage_offset,
            tensor,
            source.untyped_storage(),
            source.storage_offset(),
            source.size(),
            source.stride(),
        )
        return tensor

    def _target(
        self, operator: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> SimulatedDevice:
        if kwargs.get("device") is not None:
            return self._find_device(torch.device(kwargs["device"]))
        indices = args[1] if operator.overloadpacket in _INDEXING else ()
        tensors = list(_tensors(args, kwargs))
        foreign = [tensor for tensor in indices if tensor is not None and tensor.device.type == "cpu"]
        devices = {
            tensor.device
            for tensor in tensors
            if not (tensor.device.type == "cpu" and (tensor.dim() == 0 or any(tensor is index for index in foreign)))
        }
        if len(devices) > 1:
            first, second = sorted(map(str, devices), key=lambda name: (name == "cpu", name))[:2]
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found at least two devices, {first} and {second}! "
                f"(when running {operator})"
            )
        if not devices:
            return self._find_device(torch.device(self._backend))
        return self._find_device(devices.pop())

    def _host(self, tensor: Tensor) -> Tensor:
        return host_view(tensor) if tensor.device.type == self._backend else tensor


def _tensors(args: Sequence[Any], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    for argument in (*args, *kwargs.values()):
        if isinstance(argument, Tensor):
            yield argument
        elif isinstance(argument, (list, tuple)):
            yield from (item for item in argument if isinstance(item, Tensor))


def _takes_generator(operator: torch._ops.OpOverload) -> bool:
    return any(argument.name == "generator" for argument in operator._schema.arguments)


def _wants_gradients(args: Sequence[Any]) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in _tensors(args, {}))


def _differentiable_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **options: Any,
) -> Tensor:
    """Attention by the operator that the CPU would choose and that has a gradient of its own."""
    inputs = query, key, value, attn_mask, dropout_p, is_causal
    if aten._fused_sdp_choice.default(*inputs, **options) == SDPBackend.FLASH_ATTENTION.value:
        scale = options.get("scale")
        fused = aten._scaled_dot_product_flash_attention_for_cpu.default
        outputs = fused(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)
    else:
        outputs = aten._scaled_dot_product_attention_math.default(*inputs, **options)
    result: Tensor = outputs[0]
    return result


def _copy_now(destination: Tensor, source: Tensor) -> None:
    destination.copy_(source)
