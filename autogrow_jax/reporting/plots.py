"""The picture of a run: accuracy, loss and depth, over epochs and over time.

Drawn from the lines of metrics.jsonl alone, without pyplot and its global state.
"""

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from autogrow_jax.errors import UserError
from autogrow_jax.reporting.marks import (
    MARK_COLOR,
    Axis,
    draw_marks,
    epoch_axis,
    epoch_times,
    series,
    stage_color,
    time_axis,
)
from autogrow_jax.reporting.metrics import find_kept, growth_events, kept_depths
from autogrow_jax.reporting.result import format_depths, format_duration
from autogrow_jax.reporting.workdir import replace_file

__all__ = ["draw_growth", "figure"]

# Of the palette of Okabe and Ito, as are the colours of the stages: colour-blind readers can tell
# them apart. The train curve is the smoother one and would be lost under the other.
_TRAIN_STYLE: dict[str, Any] = {"color": "#e69f00", "zorder": 2.2}
_VALIDATION_STYLE: dict[str, Any] = {"color": "#000000", "zorder": 2.1}
_TRIED_STYLE: dict[str, Any] = {
    "color": MARK_COLOR,
    "linestyle": "none",
    "marker": "o",
    "markersize": 3,
    "markerfacecolor": "none",
    "markeredgewidth": 0.7,
    "zorder": 2,
}
_TEST_STYLE: dict[str, Any] = {
    "color": "#f0e442",
    "marker": "*",
    "markersize": 15,
    "markeredgecolor": "black",
}

# So few points are drawn as dots too: a single one would not be seen in a line.
_MAX_EPOCHS_WITH_DOTS = 40
# The part of each panel's height that is kept free at the bottom, for the growth ticks.
_BOTTOM_ROOM = 0.07
# The panel of depths is about this many points high.
_DEPTH_PANEL_POINTS = 150


def draw_growth(
    metrics: Sequence[Mapping[str, Any]],
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
      title: the first line over the picture.
      validation_name: what the validation accuracy was measured on, for the legend.
      test_accuracy: percent, where it is known.
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
    metrics: Sequence[Mapping[str, Any]],
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
        for column, axis in enumerate((epoch_axis(metrics), time_axis(metrics))):
            accuracy, loss, depth = panels[:, column]
            _draw_accuracy(accuracy, metrics, axis, validation_name, test_accuracy)
            _draw_loss(loss, metrics, axis)
            _draw_depths(depth, metrics, axis)
            draw_marks(accuracy, loss, depth, metrics, axis)
            depth.set_xlim(axis.origin, axis.end[-1] + 0.015 * (axis.end[-1] - axis.origin))
            depth.set_xlabel(axis.label)
        panels[2, 0].xaxis.set_major_locator(MaxNLocator(8, integer=True))
        for row in range(3):
            # Outside the panels a legend cannot cover a curve.
            panels[row, 1].legend(
                loc="upper left", bbox_to_anchor=(1.01, 1.03), frameon=False, fontsize=9.5
            )
    for row, label in enumerate(("accuracy (%)", "loss", "depth (blocks)")):
        panels[row, 0].set_ylabel(label)
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
    panel: Axes,
    metrics: Sequence[Mapping[str, Any]],
    axis: Axis,
    validation_name: str,
    test_accuracy: float | None,
) -> None:
    train, validation = series(metrics, "train_accuracy"), series(metrics, "validation_accuracy")
    kept = np.array(find_kept(metrics))
    finite = np.isfinite(validation) & kept
    best = f"\nbest {validation[finite].max():.2f} %" if finite.any() else ""
    _draw_curve(panel, axis.end[kept], train[kept], "train", _TRAIN_STYLE)
    _draw_curve(
        panel, axis.end[kept], validation[kept], f"{validation_name}{best}", _VALIDATION_STYLE
    )
    if not kept.all():
        tried = f"tried, not kept: {np.sum(~kept):,}"
        panel.plot(axis.end[~kept], validation[~kept], label=tried, **_TRIED_STYLE)
    lowest = np.where(kept, np.fmin(train, validation), validation)
    highest = np.where(kept, np.fmax(train, validation), validation)
    if test_accuracy is not None:
        lowest, highest = np.append(lowest, test_accuracy), np.append(highest, test_accuracy)
        panel.plot(
            axis.end[-1:],
            [test_accuracy],
            linestyle="none",
            clip_on=False,
            zorder=5,
            label=f"test {test_accuracy:.2f} %",
            **_TEST_STYLE,
        )
    if np.isfinite(lowest).any():
        _set_accuracy_limits(panel, lowest[np.isfinite(lowest)], np.nanmax(highest))


def _set_accuracy_limits(panel: Axes, lowest: np.ndarray, top: float) -> None:
    """Leaves the worst epochs below the panel where they would press all others together.

    Args:
      panel: the panel of accuracies.
      lowest: the lower accuracy of each epoch.
      top: the highest accuracy of all.
    """
    bottom, most = lowest.min(), np.percentile(lowest, 5)
    num_below = 0
    if top - bottom > 1.8 * (top - most):
        bottom = most
        num_below = int(np.sum(lowest < most))
    span = max(top - bottom, 0.5)
    panel.set_ylim(bottom - span * _BOTTOM_ROOM, top + 0.04 * span)
    if num_below:
        # In the legend, as a note in the panel would lie on the curves.
        count = f"{num_below} {'epoch' if num_below == 1 else 'epochs'}"
        panel.plot([], [], "v", color=MARK_COLOR, markersize=5, label=f"{count} below the panel")


def _draw_loss(panel: Axes, metrics: Sequence[Mapping[str, Any]], axis: Axis) -> None:
    kept = np.array(find_kept(metrics))
    end = axis.end[kept]
    train, validation = (series(metrics, key)[kept] for key in ("train_loss", "validation_loss"))
    _draw_curve(panel, end, train, "train", _TRAIN_STYLE)
    _draw_curve(panel, end, validation, "validation", _VALIDATION_STYLE)
    values = np.concatenate([train, validation])
    values = values[np.isfinite(values)]
    if not values.size:
        return
    low, high = values.min(), values.max()
    if low > 0 and high / low > 5:
        span = np.log10(high / low)
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if span < 2.5 else (1,)))
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.yaxis.set_minor_formatter(NullFormatter())
        panel.set_ylim(low / 10 ** (span * _BOTTOM_ROOM), high * 10 ** (span * 0.04))
    else:
        span = max(high - low, 1e-3)
        panel.set_ylim(low - span * _BOTTOM_ROOM, high + span * 0.04)


def _draw_depths(panel: Axes, metrics: Sequence[Mapping[str, Any]], axis: Axis) -> None:
    depths = np.array(kept_depths(metrics))  # [epochs, stages]
    times = np.stack([axis.start, axis.end], axis=1).ravel()
    num_stages = depths.shape[1]
    block_points = _DEPTH_PANEL_POINTS / max(1, depths.max())
    thinnest, step = np.clip(0.4 * block_points, 0.8, 1.6), np.clip(0.3 * block_points, 0.8, 2.6)
    for stage in range(num_stages):
        values = np.repeat(depths[:, stage], 2)
        first, last = values[0], values[-1]
        # Round robin keeps the stages equal: each line is thinner than the one under it, so that
        # lines at one depth are all seen.
        panel.plot(
            times,
            values,
            color=stage_color(stage),
            linewidth=thinnest + step * (num_stages - 1 - stage),
            solid_joinstyle="miter",
            solid_capstyle="butt",
            label=f"stage {stage}: {first}" + (f" to {last}" if first != last else ""),
        )
    panel.set_ylim(0, depths.max() * 1.06 + 0.3)
    panel.yaxis.set_major_locator(MaxNLocator(6, integer=True))


def _draw_curve(
    panel: Axes, x: np.ndarray, y: np.ndarray, label: str, style: Mapping[str, Any]
) -> None:
    if np.isfinite(y).any():
        dots: dict[str, Any] = (
            {"marker": "o", "markersize": 3} if len(x) <= _MAX_EPOCHS_WITH_DOTS else {}
        )
        width = float(np.clip(250 / len(x), 0.6, 1.3))
        panel.plot(x, y, label=label, linewidth=width, **style, **dots)


def _summary(metrics: Sequence[Mapping[str, Any]]) -> str:
    if not metrics:
        return "no epoch is done yet"
    num_growths = len(growth_events(metrics))
    course = kept_depths(metrics)
    depths = format_depths(course[-1])
    if num_growths:
        times = "once" if num_growths == 1 else f"{num_growths:,} times"
        depths = f"{format_depths(course[0])} grown {times} to {depths}"
    duration = format_duration(epoch_times(metrics)[1][-1])
    num_epochs = metrics[-1]["epoch"] + 1
    epochs = f"{num_epochs:,} {'epoch' if num_epochs == 1 else 'epochs'}"
    num_trials = sum(line.get("trial") is not None for line in metrics)
    if num_trials:
        epochs += f" ({num_trials:,} on trial)"
    return f"{depths}, {epochs}, {duration}"
