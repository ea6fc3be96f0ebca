"""Draws how a net grew, for docs/growth.md, out of a run's files.

python -m autogrow_jax && python docs/draw_growth.py runs/digits_plain3 docs/images/blocks.png
"""

import sys
from itertools import pairwise
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from autogrow_jax.reporting import metrics
from autogrow_jax.reporting.drawing import PALETTE, save_figure


def draw(workdir: str, path: str) -> None:
    """Draws accuracy over the growth phase, and below it each net that it passed, by blocks."""
    lines = [line for line in metrics.read(f"{workdir}/metrics.jsonl") if line["phase"] == "growth"]
    epochs = [line["epoch"] for line in lines]
    changed = [now for last, now in pairwise(lines) if now["depths"] != last["depths"]]
    nets = [lines[0], *changed]
    figure = Figure(figsize=(9, 5.4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1.25))
    accuracy = [line["validation_accuracy"] for line in lines]
    above.plot(epochs, accuracy, "o-", color="black", markersize=3, linewidth=1.2)
    above.set_ylabel("validation accuracy (%)")
    before = [0] * len(lines[0]["depths"])
    for number, net in enumerate(nets):
        left = net["epoch"] - 0.5
        right = nets[number + 1]["epoch"] - 0.5 if number + 1 < len(nets) else epochs[-1] + 0.5
        height = 0
        for stage, depth in enumerate(net["depths"]):
            for block in range(depth):
                is_new = number > 0 and block >= before[stage]
                below.bar(left + 0.15, 0.8, right - left - 0.3, height + 0.1, align="edge",
                          color=PALETTE[stage], alpha=1.0 if is_new else 0.45,
                          edgecolor="black" if is_new else "none", linewidth=1.4)  # fmt: skip
                if is_new:
                    above.axvline(left, color=PALETTE[stage], linewidth=1.4, alpha=0.7, zorder=0)
                height += 1
        before = net["depths"]
    patches = [
        Patch(color=PALETTE[stage], alpha=0.45, label=f"blocks of stage {stage}")
        for stage in range(len(before))
    ]
    new = Patch(facecolor="white", edgecolor="black", linewidth=1.4, label="new")
    below.legend(handles=[*patches, new], loc="upper left", frameon=False, fontsize=9)
    below.set_ylabel("blocks, from the input up")
    below.set_xlabel("epoch of growth")
    for panel in (above, below):
        panel.spines[["top", "right"]].set_visible(False)
    save_figure(figure, Path(path), dpi=110)


if __name__ == "__main__":
    draw(*sys.argv[1:])
