"""The allocation language, the inventory of blocks and the planners."""

from .amounts import format_bytes, readable_bytes
from .device_names import KnownDevices, Resolver
from .errors import AllocationError, PlanError
from .fastest_plan import plan_with_profile
from .header_error import HeaderError
from .inventory import Block, BlockKind, Inventory
from .inventory_of_file import check_header, inventory_of_file
from .inventory_of_module import inventory_of_module
from .language import format_expert, format_request, parse_expert, parse_full
from .plan import AllocationPlan, Placement
from .planner import plan_allocation
from .request import AllocationMode, AllocationRequest, Share, Strategy
from .staging_ring import StagingRing, staging_ring
from .step_time import StepPrediction, predict_step
from .table import plan_table
from .widgets import AllocationWidgets, request_from_widgets

__all__ = [
    "AllocationError",
    "AllocationMode",
    "AllocationPlan",
    "AllocationRequest",
    "AllocationWidgets",
    "Block",
    "BlockKind",
    "HeaderError",
    "Inventory",
    "KnownDevices",
    "Placement",
    "PlanError",
    "Resolver",
    "Share",
    "StagingRing",
    "StepPrediction",
    "Strategy",
    "check_header",
    "format_bytes",
    "format_expert",
    "format_request",
    "inventory_of_file",
    "inventory_of_module",
    "parse_expert",
    "parse_full",
    "plan_allocation",
    "plan_table",
    "plan_with_profile",
    "predict_step",
    "readable_bytes",
    "request_from_widgets",
    "staging_ring",
]
