"""The allocation language, the inventory of blocks and the planners."""

from multigpu.multigpu_core.allocation.expected_step import expected_step
from multigpu.multigpu_core.allocation.formats.header_error import HeaderError
from multigpu.multigpu_core.allocation.inventory.inventory import Block, BlockKind, Inventory
from multigpu.multigpu_core.allocation.inventory.of_file import check_header, inventory_of_file
from multigpu.multigpu_core.allocation.inventory.of_module import inventory_of_module
from multigpu.multigpu_core.allocation.language.amounts import format_bytes, readable_bytes
from multigpu.multigpu_core.allocation.language.device_names import KnownDevices, Resolver
from multigpu.multigpu_core.allocation.language.errors import AllocationError, PlanError
from multigpu.multigpu_core.allocation.language.parser import format_expert, format_request, parse_expert, parse_full
from multigpu.multigpu_core.allocation.language.request import AllocationMode, AllocationRequest, Share
from multigpu.multigpu_core.allocation.language.widgets import AllocationWidgets, request_from_widgets
from multigpu.multigpu_core.allocation.planner.fastest_plan import plan_with_profile
from multigpu.multigpu_core.allocation.planner.plan import AllocationPlan, Placement, WorkShare
from multigpu.multigpu_core.allocation.planner.planner import plan_allocation
from multigpu.multigpu_core.allocation.planner.staging_ring import StagingRing, staging_ring
from multigpu.multigpu_core.allocation.planner.step_time import StepPrediction, predict_step
from multigpu.multigpu_core.allocation.planner.table import plan_table
from multigpu.multigpu_core.allocation.unmoved import warned_if_unmoved
from multigpu.multigpu_core.strategies.strategy import Strategy

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
    "WorkShare",
    "check_header",
    "expected_step",
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
    "warned_if_unmoved",
]
