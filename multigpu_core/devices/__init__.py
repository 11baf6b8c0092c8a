"""What devices there are and what they hold."""

from .accelerator import AcceleratorBackend, CudaBackend, PrivateUse1Backend
from .after_capture import AfterCapture
from .backend import DeviceBackend, MemoryReading
from .cpu import CpuBackend
from .default import default_backends, default_registry
from .directml import DirectMLBackend
from .errors import DeviceError
from .info import DeviceInfo
from .link_tiers import published_profile, published_profile_of
from .measure import Measured, measure_profile
from .mps import MpsBackend
from .page_lock import PageLockError
from .profile import HardwareProfile, LinkSpeed
from .profile_cache import (
    ProfileError,
    known_profile,
    load_profile,
    profile_anew,
    profile_changed_ns,
    profile_file,
    save_profile,
)
from .registry import DeviceRegistry
from .streams import DeviceEvent, DeviceStream, Streams
from .survey import DeviceProblem, DeviceSurvey
from .vendor import VendorPackage, import_vendor_package

__all__ = [
    "AcceleratorBackend",
    "AfterCapture",
    "CpuBackend",
    "CudaBackend",
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
    "PageLockError",
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
