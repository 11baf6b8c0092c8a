"""Which plugins there are, what they offer, and what to do when one fails."""

from .configuration import Configuration, read_configuration
from .loaders import DevicePart, NodeVariant, OwnNode, WrappedLoader, split_and_device
from .manager import PluginManager, PluginStatus
from .unloading import LoadedModelInfo, UnloadReason

__all__ = [
    "Configuration",
    "DevicePart",
    "LoadedModelInfo",
    "NodeVariant",
    "OwnNode",
    "PluginManager",
    "PluginStatus",
    "UnloadReason",
    "WrappedLoader",
    "read_configuration",
    "split_and_device",
]
