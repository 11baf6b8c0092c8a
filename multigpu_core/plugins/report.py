"""The report on plugins, as it stands in the log and as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from .record import PackState, PluginRecord, TargetPack


def report_lines(records: Iterable[PluginRecord]) -> list[str]:
    """One line for each plugin, short enough for a log."""
    shown = list(records)
    width = max((len(record.name) for record in shown), default=0)
    return [f"  {record.name:<{width}}  {_state(record)}" for record in shown]


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
    loaded = [str(pack) for pack in record.targets if pack.state is PackState.LOADED]
    of = f" for {', '.join(loaded)}" if loaded else ""
    count = f"{len(record.nodes)} node{'' if len(record.nodes) == 1 else 's'}"
    return f"{count}{of}{taken}{absent} ({origin})"


def _why_none(targets: Iterable[TargetPack]) -> str:
    words = {
        PackState.PRESENT: "is there",
        PackState.LOADED: "has none of its loaders",
        PackState.ABSENT: "is absent",
        PackState.DISABLED: "is disabled",
        PackState.FAILED: "could not be imported",
    }
    return ", ".join(f"{pack} {words[pack.state]}" for pack in targets) or "none of its loaders is here"
