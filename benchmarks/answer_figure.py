"""The figure of `benchmarks.answer`: accuracy against what the answer cost, and the net costs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from autogrow_jax.reporting.drawing import save_figure
from benchmarks.answer_tables import CONVERGENT, DEFAULT, HALVING, OPTUNA, PERIODIC, SWEEP

_AXES = {
    "training_flops": "training FLOPs of everything spent on the answer",
    "flops": "FLOPs of the net (forward, one image)",
}
# Which look the same in all figures, whatever has run.
_METHODS = DEFAULT, PERIODIC, CONVERGENT, SWEEP, HALVING, OPTUNA


def draw(panels: Mapping[str, Sequence[Any]], out: Path) -> None:
    """Writes `answer.png` and `.svg`: a row for each set, a point with its spread for each method.

    The line joins the methods that no other beats in accuracy at less cost.
    """
    rows = len(panels)
    figure = Figure(figsize=(13, 4.6 * rows), dpi=130, layout="constrained")
    grid = figure.subplots(rows, 2, squeeze=False, sharey="row")
    for (title, lines), (left, right) in zip(panels.items(), grid, strict=True):
        for panel, name in ((left, "training_flops"), (right, "flops")):
            _draw(panel, lines, name)
        left.set_title(title, loc="left")
        left.set_ylabel("test accuracy (%)")
        right.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize=8)
    save_figure(figure, out / "answer.png", out / "answer.svg")


def find_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (cost, accuracy), those that no other beats at the same cost or less, by cost."""
    front: list[tuple[float, float]] = []
    for cost, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or accuracy > front[-1][1]:
            front.append((cost, accuracy))
    return front


def _draw(panel: Axes, lines: Sequence[Any], name: str) -> None:
    points = []
    scratch = [line for line in lines if line.method.startswith("from scratch")]
    known = [*_METHODS, *(line.method for line in lines)]
    for line in lines:
        x, y = line.mean(name), line.mean("test_accuracy")
        points.append((x, y))
        if line in scratch:
            shade = 0.25 + 0.55 * scratch.index(line) / max(1, len(scratch) - 1)
            style: dict[str, Any] = {"fmt": "o", "color": str(1 - shade), "ms": 5}
        else:
            number = known.index(line.method)
            style = {"fmt": "Ds^v*P"[number % 6], "color": f"C{number % 10}", "ms": 8}
        spread = {
            "xerr": line.deviation(name) or None,
            "yerr": line.deviation("test_accuracy") or None,
        }
        panel.errorbar([x], [y], label=line.method, elinewidth=1, **style, **spread)
    front = find_front(points)
    panel.plot(*zip(*front, strict=True), color="#b5b5b5", zorder=1, drawstyle="steps-post")
    panel.set_xscale("log")
    panel.xaxis.set_major_formatter(ticker.EngFormatter(sep=" "))
    panel.xaxis.set_minor_formatter(ticker.NullFormatter())
    panel.set_xlabel(_AXES[name])
    panel.grid(color="#e6e6e6", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
