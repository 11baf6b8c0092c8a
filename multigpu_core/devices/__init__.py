"""What devices there are and what they hold."""

from .accelerator import AcceleratorBackend, CudaBackend, PrivateUse1Backend
from .backend import DeviceBackend, MemoryReading
from .cpu import CpuBackend
from .default import default_backends, default_registry
from .directml import DirectMLBackend
from .errors import DeviceError
from .info import DeviceInfo
from .mps import MpsBackend
from .registry import DeviceRegistry
from .survey import DeviceProblem, DeviceSurvey
from .vendor import VendorPackage, import_vendor_package

__all__ = [
    "AcceleratorBackend",
    "CpuBackend",
    "CudaBackend",
    "DeviceBackend",
    "DeviceError",
    "DeviceInfo",
    "DeviceProblem",
    "DeviceRegistry",
    "DeviceSurvey",
    "DirectMLBackend",
    "MemoryReading",
    "MpsBackend",
    "PrivateUse1Backend",
    "VendorPackage",
    "default_backends",
    "default_registry",
    "import_vendor_package",
]
