"""The picture of a run: accuracy, loss and depth, over epochs and over time.

Drawn from the lines of metrics.jsonl alone, without pyplot and its global state.
"""

import io
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from autogrow_jax.errors import UserError
from autogrow_jax.reporting import marks, result
from autogrow_jax.reporting.marks import MARK_COLOR, Axis, series
from autogrow_jax.reporting.metrics import Lines, best_accuracy, find_kept, kept_depths
from autogrow_jax.reporting.workdir import replace_file

# Of the palette of Okabe and Ito, as are the colours of the stages: colour-blind readers can tell
# them apart. The train curve is the smoother one and would be lost under the other.
_TRAIN_STYLE: dict[str, Any] = {"color": "#e69f00", "zorder": 2.2}
_VALIDATION_STYLE: dict[str, Any] = {"color": "#000000", "zorder": 2.1}

# So few points are drawn as dots too: a single one would not be seen in a line.
_MAX_EPOCHS_WITH_DOTS = 40
# The part of a panel's height that is kept free at the bottom, for the growth ticks.
_BOTTOM_ROOM = 0.07


def draw_growth(
    metrics: Lines,
    path: str | os.PathLike[str],
    *,
    title: str = "",
    validation_name: str = "validation",
    test_accuracy: float | None = None,
    svg: bool = False,
) -> list[Path]:
    """Draws a run into a PNG file of 150 dots an inch; an old one is replaced in one step.

    Args:
      metrics: lines of metrics.jsonl, at least one.
      path: the picture to write, such as `plots/growth.png`; its directory is made if missing.
      title: as `validation_name` and `test_accuracy`, see `figure`.
      svg: whether to write an SVG file beside it too.

    Returns:
      The files written.

    Raises:
      UserError: if `metrics` is empty or `path` does not end in `.png`.
    """
    path = Path(path)
    if path.suffix != ".png":
        raise UserError(f"The plot {str(path)!r} must end in '.png', such as 'plots/growth.png'.")
    if not metrics:
        raise UserError(
            f"There is nothing to draw into {str(path)!r}: the metrics hold no epoch yet. "
            "Wait for the first epoch to end."
        )
    drawing = figure(
        metrics, title=title, validation_name=validation_name, test_accuracy=test_accuracy
    )
    paths = [path, path.with_suffix(".svg")] if svg else [path]
    for target in paths:
        buffer = io.BytesIO()
        drawing.savefig(buffer, format=target.suffix[1:])
        replace_file(target, buffer.getvalue())
    return paths


def figure(
    metrics: Lines,
    *,
    title: str = "",
    validation_name: str = "validation",
    test_accuracy: float | None = None,
) -> Figure:
    """Draws a run, for notebooks: `display(figure(metrics))`.

    What an epoch ended with stands at the number of epochs done then, so epoch 0 at 1; a growth
    before epoch e stands at e. Curves and depths are those of the nets that were kept; trials that
    were not are dots.

    Args:
      metrics: lines of metrics.jsonl, of a run that may still go on; none gives empty panels.
      title: the first line over the picture.
      validation_name: what the validation accuracy was measured on, for the legend.
      test_accuracy: percent, where it is known.

    Returns:
      A figure of its own, not known to pyplot: three rows (accuracy, loss, depth of every stage),
      two columns (epochs, time).
    """
    drawing = Figure(figsize=(13, 8.2), dpi=150, layout="constrained")
    panels = drawing.subplots(
        3, 2, sharex="col", sharey="row", gridspec_kw={"height_ratios": (1.3, 1, 1)}
    )
    if metrics:
        axes = marks.epoch_axis(metrics), marks.time_axis(metrics)
        for column, axis in zip(panels.T, axes, strict=True):
            accuracy, loss, depth = column
            _draw_accuracy(accuracy, metrics, axis, validation_name, test_accuracy)
            _draw_loss(loss, metrics, axis)
            _draw_depths(depth, metrics, axis)
            marks.draw_marks(column, metrics, axis)
            depth.set_xlim(0, 1.015 * axis.end[-1])
            depth.set_xlabel(axis.label)
        panels[2, 0].xaxis.set_major_locator(MaxNLocator(8, integer=True))
        for panel in panels[:, 1]:
            # Outside the panels a legend cannot cover a curve.
            panel.legend(loc="upper left", bbox_to_anchor=(1.01, 1.03), frameon=False, fontsize=9.5)
    for panel, label in zip(panels[:, 0], ("accuracy (%)", "loss", "depth (blocks)"), strict=True):
        panel.set_ylabel(label)
    for panel in panels.flat:
        panel.grid(axis="y", color="#e6e6e6", linewidth=0.6)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=9)
    drawing.align_ylabels(panels[:, 0])
    panels[0, 0].set_title(_summary(metrics), loc="left", fontsize=10, color=MARK_COLOR, pad=10)
    if title:
        drawing.suptitle(title, x=0.01, ha="left", fontsize=15)
    return drawing


def _draw_accuracy(
    panel: Axes, metrics: Lines, axis: Axis, validation_name: str, test_accuracy: float | None
) -> None:
    kept = np.array(find_kept(metrics))
    validation = series(metrics, "validation_accuracy")
    train = np.where(kept, series(metrics, "train_accuracy"), np.nan)
    best = best_accuracy(metrics)
    name = f"{validation_name}\nbest {best:.2f} %" if np.isfinite(best) else validation_name
    _draw_curve(panel, axis.end[kept], train[kept], "train", _TRAIN_STYLE)
    _draw_curve(panel, axis.end[kept], validation[kept], name, _VALIDATION_STYLE)
    grey: dict[str, Any] = {"color": MARK_COLOR, "zorder": 2}
    if not kept.all():
        tried = f"tried, not kept: {np.sum(~kept):,}"
        hollow = {"markersize": 3, "fillstyle": "none", "markeredgewidth": 0.7, **grey}
        panel.plot(axis.end[~kept], validation[~kept], "o", label=tried, **hollow)
    shown = np.stack([train, validation])
    if test_accuracy is not None:
        shown = np.append(shown, np.full((2, 1), test_accuracy), axis=1)
        star: dict[str, Any] = {"color": "#f0e442", "markersize": 15, "markeredgecolor": "black"}
        label = f"test {test_accuracy:.2f} %"
        panel.plot(axis.end[-1], test_accuracy, "*", clip_on=False, zorder=5, label=label, **star)
    shown = shown[:, np.isfinite(shown).any(axis=0)]
    if not shown.size:
        return
    lowest, top = np.nanmin(shown, axis=0), np.nanmax(shown)
    bottom, most = lowest.min(), np.percentile(lowest, 5)
    if top - bottom > 1.8 * (top - most):
        # The worst epochs would press all others together. They are told of in the legend, as a
        # note in the panel would lie on the curves.
        bottom = most
        below = f"{result.format_count(int(np.sum(lowest < most)), 'epoch')} below the panel"
        panel.plot([], [], "v", markersize=5, label=below, **grey)
    span = max(top - bottom, 0.5)
    panel.set_ylim(bottom - _BOTTOM_ROOM * span, top + 0.04 * span)


def _draw_loss(panel: Axes, metrics: Lines, axis: Axis) -> None:
    kept = np.array(find_kept(metrics))
    curves = [series(metrics, key)[kept] for key in ("train_loss", "validation_loss")]
    _draw_curve(panel, axis.end[kept], curves[0], "train", _TRAIN_STYLE)
    _draw_curve(panel, axis.end[kept], curves[1], "validation", _VALIDATION_STYLE)
    panel.margins(y=_BOTTOM_ROOM)
    values = np.concatenate(curves)
    low, high = np.nanmin(values, initial=np.inf), np.nanmax(values, initial=0)
    if low > 0 and high / low > 5:
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,)))
        panel.yaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_minor_formatter("")


def _draw_depths(panel: Axes, metrics: Lines, axis: Axis) -> None:
    depths = np.array(kept_depths(metrics))  # [epochs, stages]
    times = np.stack([axis.start, axis.end], axis=1).ravel()
    for stage, course in enumerate(depths.T):
        first, last = course[0], course[-1]
        panel.plot(
            times,
            np.repeat(course, 2),
            color=marks.stage_color(stage),
            # Round robin keeps the stages equal: each line is thinner than the one under it, so
            # that lines at one depth are all seen.
            linewidth=len(depths.T) - stage,
            solid_joinstyle="miter",
            solid_capstyle="butt",
            label=f"stage {stage}: {first}" + (f" to {last}" if first != last else ""),
        )
    panel.set_ylim(0, depths.max() * 1.06 + 0.3)
    panel.yaxis.set_major_locator(MaxNLocator(6, integer=True))


def _draw_curve(panel: Axes, x: np.ndarray, y: np.ndarray, label: str, style: dict) -> None:
    if np.isfinite(y).any():
        marker = "o" if len(x) <= _MAX_EPOCHS_WITH_DOTS else ""
        width = float(np.clip(250 / len(x), 0.6, 1.3))
        panel.plot(x, y, label=label, linewidth=width, marker=marker, markersize=3, **style)


def _summary(metrics: Lines) -> str:
    if not metrics:
        return "no epoch is done yet"
    course = kept_depths(metrics)
    depths = result.format_depths(course[-1])
    num_growths = sum(before != after for before, after in pairwise(course))
    if num_growths:
        depths = (
            f"{result.format_depths(course[0])} grown {result.count_times(num_growths)} to {depths}"
        )
    epochs = result.format_count(metrics[-1]["epoch"] + 1, "epoch")
    trials = result.on_trial(sum(line.get("trial") is not None for line in metrics))
    return f"{depths}, {epochs}{trials}, {result.format_duration(marks.end_times(metrics)[-1])}"
