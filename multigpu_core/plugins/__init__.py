"""Which plugins there are, what they offer, and what to do when one fails."""

from multigpu.multigpu_core.contract.loaders import (
    DevicePart,
    ExtraInput,
    NodeVariant,
    OwnNode,
    PackDevices,
    ReplacedInput,
    WrappedLoader,
    device_only,
    split_and_device,
)
from multigpu.multigpu_core.contract.unloading import LoadedModelInfo, UnloadReason
from multigpu.multigpu_core.settings.configuration import (
    Configuration,
    ConfigurationProblem,
    read_configuration,
    user_files,
)

from .discovery import (
    Candidate,
    built_in,
    built_in_names,
    carried_by_packs,
    installed,
    is_rival,
    name_of_pack,
    pack_folders,
    packs_in,
    plain_name,
    version_of_pack,
)
from .manager import PluginManager
from .record import PackState, PluginRecord, TargetPack
from .report import report_json, report_lines
from .validation import PLUGIN_API, PluginError

__all__ = [
    "PLUGIN_API",
    "Candidate",
    "Configuration",
    "ConfigurationProblem",
    "DevicePart",
    "ExtraInput",
    "LoadedModelInfo",
    "NodeVariant",
    "OwnNode",
    "PackDevices",
    "PackState",
    "PluginError",
    "PluginManager",
    "PluginRecord",
    "ReplacedInput",
    "TargetPack",
    "UnloadReason",
    "WrappedLoader",
    "built_in",
    "built_in_names",
    "carried_by_packs",
    "device_only",
    "installed",
    "is_rival",
    "name_of_pack",
    "pack_folders",
    "packs_in",
    "plain_name",
    "read_configuration",
    "report_json",
    "report_lines",
    "split_and_device",
    "user_files",
    "version_of_pack",
]
