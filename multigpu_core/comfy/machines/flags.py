"""The flags of ComfyUI on which results depend: a worker has home's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from multigpu.multigpu_core.comfy.host.compatibility import cli_args

_BEGINNINGS = ("fp16_", "fp32_", "fp8_", "bf16_", "force_", "cpu_vae", "use_", "supports_fp8", "disable_xformers")
_NAMES = ("deterministic", "dont_upcast_attention", "fast")


def flags_here() -> dict[str, Any]:
    """Those of this ComfyUI, as values that can be sent."""
    return {name: _plain(value) for name, value in vars(cli_args.args).items() if _decides(name)}


def use_flags(flags: Mapping[str, Any]) -> None:
    """Give this ComfyUI home's flags; names that it does not have are left out. Before anything of it is used."""
    for name, value in flags.items():
        if _decides(name) and hasattr(cli_args.args, name):
            own = getattr(cli_args.args, name)
            setattr(cli_args.args, name, _set_like(own, value) if isinstance(value, list) else value)


def _decides(name: str) -> bool:
    return name.startswith(_BEGINNINGS) or name in _NAMES


def _plain(value: Any) -> Any:
    """A set of ComfyUI's enumeration as the list of its values."""
    return sorted(each.value for each in value) if isinstance(value, set) else value


def _set_like(own: Any, values: list[str]) -> Any:
    kinds = {type(each) for each in own} if isinstance(own, set) else set()
    kind = next(iter(kinds), None) or getattr(cli_args, "PerformanceFeature", None)
    return {kind(each) for each in values} if kind is not None else set()
