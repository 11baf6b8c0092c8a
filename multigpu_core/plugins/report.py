"""The report on plugins, as it stands in the log and as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from .record import BUILT_IN, PackState, PluginRecord, TargetPack


def report_lines(records: Iterable[PluginRecord]) -> list[str]:
    """A line for all nodes, one for all packs that are not installed, and one for each plugin that has more to say."""
    with_nodes, absent, others = [], [], []
    for record in records:
        is_complete = not record.taken and (record.source == BUILT_IN or not record.absent)
        if record.works and record.nodes and is_complete:
            with_nodes.append(record)
        elif record.works and record.targets and all(pack.state is PackState.ABSENT for pack in record.targets):
            absent.append(record)
        elif record.source != BUILT_IN or not record.works or record.absent or record.taken:
            others.append(record)
    lines = []
    if with_nodes:
        lines.append("  nodes: " + "; ".join(f"{_loaded(record)} {len(record.nodes)}" for record in with_nodes))
    if absent:
        lines.append("  not installed: " + ", ".join(str(pack) for record in absent for pack in record.targets))
    width = max((len(record.name) for record in others), default=0)
    return lines + [f"  {record.name:<{width}}  {_state(record)}" for record in others]


def report_json(records: Iterable[PluginRecord]) -> list[dict[str, Any]]:
    return [asdict(record) | {"works": record.works, "summary": _state(record)} for record in records]


def _state(record: PluginRecord) -> str:
    if not record.enabled:
        return f"off ({record.source})"
    if record.why_not:
        return f"FAILED: {record.why_not} ({record.source})"
    origin = f"{record.source} {record.version}".rstrip()
    if record.names_no_loaders and not record.nodes:
        return f"names no loaders ({origin})"
    if not record.nodes and not record.taken:
        return f"no nodes: {_why_none(record.targets)} ({origin})" if record.absent else f"works ({origin})"
    taken = f", taken by others: {', '.join(record.taken)}" if record.taken else ""
    absent = f", not here: {', '.join(record.absent)}" if record.absent else ""
    loaded = _loaded(record)
    of = f" for {loaded}" if loaded != record.name else ""
    count = f"{len(record.nodes)} node{'' if len(record.nodes) == 1 else 's'}"
    return f"{count}{of}{taken}{absent} ({origin})"


def _loaded(record: PluginRecord) -> str:
    """The packs that a plugin has made nodes for; the plugin's own name where there are none."""
    return ", ".join(str(pack) for pack in record.targets if pack.state is PackState.LOADED) or record.name


def _why_none(targets: Iterable[TargetPack]) -> str:
    words = {
        PackState.PRESENT: "is there",
        PackState.LOADED: "has none of its loaders",
        PackState.ABSENT: "is absent",
        PackState.DISABLED: "is disabled",
        PackState.FAILED: "could not be imported",
    }
    return ", ".join(f"{pack} {words[pack.state]}" for pack in targets) or "none of its loaders is here"
