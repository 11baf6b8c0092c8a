"""What devices there are and what they hold."""

from multigpu.multigpu_core.devices.backends.accelerator import AcceleratorBackend, CudaBackend, PrivateUse1Backend
from multigpu.multigpu_core.devices.backends.base import DeviceActivity, DeviceBackend, MemoryReading
from multigpu.multigpu_core.devices.backends.cpu import CpuBackend
from multigpu.multigpu_core.devices.backends.directml import DirectMLBackend
from multigpu.multigpu_core.devices.backends.mps import MpsBackend
from multigpu.multigpu_core.devices.backends.pinning import PinError
from multigpu.multigpu_core.devices.backends.streams import DeviceEvent, DeviceStream, Streams
from multigpu.multigpu_core.devices.backends.vendor import VendorPackage, import_vendor_package
from multigpu.multigpu_core.devices.speeds.measure import Measured, measure_profile
from multigpu.multigpu_core.devices.speeds.profile import HardwareProfile, LinkSpeed
from multigpu.multigpu_core.devices.speeds.profile_cache import (
    ProfileError,
    known_profile,
    load_profile,
    profile_anew,
    profile_changed_ns,
    profile_file,
    save_profile,
)
from multigpu.multigpu_core.devices.speeds.published import published_profile, published_profile_of

from .after_capture import AfterCapture
from .default import default_backends, default_registry
from .errors import DeviceError
from .info import DeviceInfo
from .registry import DeviceRegistry
from .survey import DeviceProblem, DeviceSurvey

__all__ = [
    "AcceleratorBackend",
    "AfterCapture",
    "CpuBackend",
    "CudaBackend",
    "DeviceActivity",
    "DeviceBackend",
    "DeviceError",
    "DeviceEvent",
    "DeviceInfo",
    "DeviceProblem",
    "DeviceRegistry",
    "DeviceStream",
    "DeviceSurvey",
    "DirectMLBackend",
    "HardwareProfile",
    "LinkSpeed",
    "Measured",
    "MemoryReading",
    "MpsBackend",
    "PinError",
    "PrivateUse1Backend",
    "ProfileError",
    "Streams",
    "VendorPackage",
    "default_backends",
    "default_registry",
    "import_vendor_package",
    "known_profile",
    "load_profile",
    "measure_profile",
    "profile_anew",
    "profile_changed_ns",
    "profile_file",
    "published_profile",
    "published_profile_of",
    "save_profile",
]
