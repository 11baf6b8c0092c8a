"""Draws what benchmarks/soak.py has kept: the server's memory at each checkpoint, when all is freed.

python benchmarks/soak_plot.py benchmarks/results/soak.json benchmarks/results/soak.svg

Needs the extra `bench` (matplotlib).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt


def draw(records: list[dict[str, object]], target: Path) -> None:
    sizes = [float(str(record["value"])) / 2**20 for record in records if "at checkpoint" in str(record["name"])]
    prompts = next(int(str(record["value"])) for record in records if str(record["name"]).startswith("prompts"))
    figure, panel = plt.subplots(figsize=(7, 3), layout="constrained")
    panel.plot([prompts * index / (len(sizes) - 1) for index in range(len(sizes))], sizes, color="tab:blue")
    panel.axvline(prompts / 3, color="gray", linewidth=0.8, linestyle=":")
    panel.set(xlabel="prompts", ylabel="memory of the server, MB", ylim=(0, 1.15 * max(sizes)))
    panel.set_title("All freed at each checkpoint; no device holds a byte then")
    figure.savefig(target)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kept", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    draw(json.loads(options.kept.read_text())["records"], options.target)
