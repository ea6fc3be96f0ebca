"""What pictures share: colours, curves, how they are written; and the panel of a front."""

import io
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from autogrow_jax.reporting.metrics import Lines
from autogrow_jax.reporting.numbers import format_behind, format_depths
from autogrow_jax.reporting.workdir import replace_file

# Of Okabe and Ito: colour-blind readers can tell them apart. A run's stages have the first five.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
MARK_COLOR = "#595959"
# So few points are drawn as dots too; of more those that no line joins to others.
_MAX_EPOCHS_WITH_DOTS = 40


def save_figure(drawing: Figure, *paths: Path, **how: Any) -> list[Path]:
    """Writes a figure into files, each of the kind its suffix names and replaced in one step.

    The same figure gives the same bytes. `how` is passed on to `savefig`.
    """
    for path in paths:
        buffer = io.BytesIO()
        metadata: dict[str, Any] = {"Date": None} if path.suffix == ".svg" else {}
        with matplotlib.rc_context({"svg.hashsalt": "autogrow_jax"}):
            drawing.savefig(buffer, format=path.suffix[1:], metadata=metadata, **how)
        replace_file(path, buffer.getvalue())
    return list(paths)


def escape(text: str) -> str:
    """Text for a figure: a dollar begins no formula, a first underscore hides no legend entry."""
    return (" " + text if text.startswith("_") else text).replace("$", r"\$")


def style_panel(panel: Axes, grid: Literal["x", "y", "both"] = "y") -> None:
    """Gives a panel the look of all: two spines, and a light grid behind what is drawn."""
    panel.grid(axis=grid, color="#e6e6e6", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(which="both", labelsize=9)


def draw_curves(
    panel: Axes,
    metrics: Lines,
    kept: np.ndarray,
    x: np.ndarray,
    train: np.ndarray,
    validation: np.ndarray,
    name: str,
) -> None:
    """Draws what was measured on training images, and on those that go by `name`, over x.

    All are [epochs], of which those are drawn that are `kept`. The nets of a front are trained by
    turns: a curve has gaps where it was another's.
    """
    lines = [line for line, is_kept in zip(metrics, kept, strict=True) if is_kept]
    gaps = [
        i
        for i, (before, line) in enumerate(pairwise(lines), start=1)
        if line.get("candidate") is not None
        and (line["candidate"], line["epoch"]) != (before.get("candidate"), before["epoch"] + 1)
    ]
    given = (x, train, validation)
    x, train, validation = (np.insert(values[kept], gaps, np.nan) for values in given)
    width = float(np.clip(250 / max(1, len(lines)), 0.6, 1.3))
    # The train curve is the smoother one and would be lost under the other.
    for y, label, color, order in ((train, "train", "#e69f00", 2.2), (validation, name, "k", 2.1)):
        known = np.isfinite([np.nan, *y, np.nan])
        dotted = known[1:-1]
        if len(lines) > _MAX_EPOCHS_WITH_DOTS:
            dotted = dotted & ~known[:-2] & ~known[2:]
        dots: dict[str, Any] = {"marker": "o", "markersize": 3, "markevery": dotted}
        if known.any():
            panel.plot(
                x,
                y,
                label=label,
                color=color,
                zorder=order,
                linewidth=width,
                **(dots if dotted.any() else {}),
            )


def draw_front(panel: Axes, front: Sequence[Mapping[str, Any]], recommended: Sequence[int]) -> None:
    """Draws the accuracy of each net of a front with its standard error, over its FLOPs.

    `front` and `recommended` are those of result.json. What was stopped early is hollow; below the
    names stands how far the Brier score is behind, by which the default chooses.
    """
    mega = np.array([net["flops"] / 1e6 for net in front])
    accuracy = np.array([net["validation_accuracy"] for net in front], np.float64)
    error = np.array([net["standard_error"] for net in front], np.float64)
    full = np.array([not net["stopped"] for net in front])
    style: dict[str, Any] = {"fmt": "o", "color": PALETTE[0], "capsize": 3, "elinewidth": 1}
    panel.plot(mega[full], accuracy[full], color=PALETTE[0], linewidth=1)
    panel.errorbar(mega[full], accuracy[full], error[full], label="fine-tuned", **style)
    if not full.all():
        style |= {"color": MARK_COLOR, "fillstyle": "none"}
        panel.errorbar(mega[~full], accuracy[~full], error[~full], label="stopped early", **style)
    for net, x, y in zip(front, mega, accuracy, strict=True):
        near: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8}
        is_last = x == mega.max()  # Whose name would lie on the legend.
        near |= {"xytext": (-7 if is_last else 7, -24), "ha": "right" if is_last else "left"}
        panel.annotate(f"{format_depths(net['depths'])}\n{format_behind(net)}", (x, y), **near)
        if list(net["depths"]) == list(recommended):
            name = f"recommended: {format_depths(recommended)}"
            star: dict[str, Any] = {"color": "#f0e442", "ms": 17, "mec": "black", "zorder": 5}
            panel.plot(x, y, "*", label=name, **star)
    if "brier" in front[0]:
        panel.plot([], [], " ", label="below names: Brier score\nbehind the best one's")
    panel.set_xscale("log")
    panel.xaxis.set_major_formatter("{x:g}")
    panel.xaxis.set_minor_formatter("{x:g}")
    panel.margins(x=0.08, y=0.1)
    panel.set_xlabel("MFLOPs of one image, forward")
    panel.set_ylabel("validation accuracy (%)")
    panel.set_title("the front", loc="left", fontsize=10, color=MARK_COLOR)
    panel.legend(loc="upper left", bbox_to_anchor=(1.01, 1.03), frameon=False, fontsize=9.5)
    style_panel(panel)
