"""A virtual clock's trace as Chrome trace JSON, and as a picture of what each engine did when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape

from .clock import Span

_ROW = 34
_LEFT = 150
_WIDTH = 1100
_TOP = 30
_COMPUTE = "#4c78a8"
_COPY = "#f58518"


def chrome_trace(spans: Sequence[Span]) -> dict[str, Any]:
    """For chrome://tracing and Perfetto: one row for each stream of each engine, times in microseconds."""
    events: list[dict[str, Any]] = []
    rows: dict[tuple[str, str], int] = {}
    processes: dict[str, int] = {}
    for span in spans:
        process = processes.setdefault(span.engine, len(processes) + 1)
        row = rows.setdefault((span.engine, span.stream), len(rows) + 1)
        events.append({
            "name": span.label or span.name,
            "cat": span.name,
            "ph": "X",
            "ts": span.start_seconds * 1e6,
            "dur": span.seconds * 1e6,
            "pid": process,
            "tid": row,
            "args": {"bytes": span.bytes} if span.bytes else {},
        })  # fmt: skip
    names = [("process_name", engine, process, 0) for engine, process in processes.items()]
    names += [("thread_name", stream, processes[engine], row) for (engine, stream), row in rows.items()]
    events += [{"name": kind, "ph": "M", "pid": pid, "tid": tid, "args": {"name": n}} for kind, n, pid, tid in names]
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def trace_picture(spans: Sequence[Span], title: str = "") -> str:
    """An SVG with time from left to right and one row for each engine; neighbours of one label are drawn as one."""
    merged = _merged(spans)
    begin = min((span.start_seconds for span in merged), default=0.0)
    end = max((span.end_seconds for span in merged), default=1.0)
    scale = _WIDTH / ((end - begin) or 1.0)
    engines = list(dict.fromkeys(sorted((span.engine for span in merged), key=lambda name: (">" in name, name))))
    height = _TOP + _ROW * len(engines) + 30
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 20}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="100%" height="100%" fill="white"/><text x="10" y="18">{escape(title)}</text>',
    ]
    for row, engine in enumerate(engines):
        y = _TOP + row * _ROW
        lines.append(f'<text x="10" y="{y + 19}">{escape(engine)}</text>')
        for span in (span for span in merged if span.engine == engine):
            x, width = _LEFT + (span.start_seconds - begin) * scale, max(0.5, span.seconds * scale)
            colour = _COPY if span.name == "copy" else _COMPUTE
            lines.append(
                f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_ROW - 8}" fill="{colour}" stroke="white">'
                f"<title>{escape(span.label or span.name)}: {span.seconds * 1000:.3g} ms</title></rect>"
            )
            if len(span.label) * 7 < width:
                lines.append(f'<text x="{x + 3:.1f}" y="{y + 17}" fill="white">{escape(span.label)}</text>')
    lines += [*_axis(begin, end, scale, height - 22), "</svg>"]
    return "\n".join(lines)


def _axis(begin: float, end: float, scale: float, y: float) -> list[str]:
    ticks = [begin + (end - begin) * part / 10 for part in range(11)]
    return [
        f'<text x="{_LEFT + (tick - begin) * scale:.1f}" y="{y + 14}" text-anchor="middle" fill="#555">'
        f"{tick * 1000:.4g} ms</text>"
        for tick in ticks
    ]


def _merged(spans: Sequence[Span]) -> list[Span]:
    """What follows at once under the same label on the same engine as one span."""
    merged: list[Span] = []
    for span in sorted(spans, key=lambda span: (span.engine, span.start_seconds)):
        last = merged[-1] if merged else None
        is_same = last is not None and (last.engine, last.label) == (span.engine, span.label) and bool(span.label)
        if last is not None and is_same and abs(last.end_seconds - span.start_seconds) < 1e-9:
            seconds = span.end_seconds - last.start_seconds
            merged[-1] = Span(last.name, last.engine, last.stream, last.label, last.start_seconds, seconds)
        else:
            merged.append(span)
    return merged
