"""Draws what benchmarks/clock.py has kept: a step over the limit, by offloaded share, for each model.

python benchmarks/clock_plot.py benchmarks/results/clock.json benchmarks/results/clock.svg

Needs the extra `bench` (matplotlib).
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from pathlib import Path

import matplotlib.pyplot as plt

NAME = re.compile(r"(?P<shape>\w+), (?P<share>\d+)% over (?P<link>.+): (?P<what>.+)")
SERIES = {
    "ours": ("ours", "tab:blue", "-"),
    "contiguous, just in time": ("contiguous, just in time", "tab:orange", "-"),
    "least that three blocks of staging allow": ("least with that staging", "tab:blue", ":"),
}
LINK = "V/B = T"


def draw(records: list[dict[str, object]], target: Path) -> None:
    """One panel for each model, where the transfers take as long as the computing."""
    points: dict[str, dict[str, list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        match = NAME.fullmatch(str(record["name"]))
        if match is not None and match["link"] == LINK and match["what"] in SERIES:
            points[match["shape"]][match["what"]].append((int(match["share"]), float(str(record["value"]))))
    figure, panels = plt.subplots(1, len(points), figsize=(4 * len(points), 3.4), sharey=True, layout="constrained")
    for panel, (shape, series) in zip(panels, points.items(), strict=True):
        for what, (label, colour, style) in SERIES.items():
            if series[what]:
                shares, values = zip(*sorted(series[what]), strict=True)
                panel.plot(shares, values, style, color=colour, label=label)
        panel.axhline(1, color="gray", linewidth=0.8)
        panel.set(title=shape, xlabel="offloaded share, %", ylim=(0.95, 2.05))
    panels[0].set_ylabel("step over the limit max(T, V/B)")
    most = max(panels, key=lambda panel: len(panel.lines))
    figure.legend(*most.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle("Transfers take as long as the computing: V/B = T")
    figure.savefig(target)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kept", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    draw(json.loads(options.kept.read_text())["records"], options.target)
