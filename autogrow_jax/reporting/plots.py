"""The picture of a run: accuracy, loss and depth, over epochs and over time.

Drawn from the lines of metrics.jsonl alone, without pyplot and its global state.
"""

import io
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from autogrow_jax.errors import UserError
from autogrow_jax.reporting import result
from autogrow_jax.reporting.metrics import (
    Lines,
    best_accuracy,
    find_kept,
    growth_events,
    kept_depths,
)
from autogrow_jax.reporting.workdir import replace_file

# Of Okabe and Ito: colour-blind readers can tell them apart. A run's stages have the first five.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
MARK_COLOR, _SHADE_COLOR = "#595959", "#f2eee3"

# So few points are drawn as dots too: a single one would not be seen in a line.
_MAX_EPOCHS_WITH_DOTS = 40
# More lines than this would hide the curves; the ticks at the bottom always show them all.
_MAX_GROWTH_LINES = 40
# A schedule with more steps than this is a smooth one, and its steps are no events.
_MAX_RATE_LINES = 8
# Numbers that a policy notes beyond so many have no panel.
_MAX_NOTES = 4
# The part of a panel's height that is kept free at the bottom, for the growth ticks.
_BOTTOM_ROOM = 0.07


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


def draw_growth(
    metrics: Lines, path: str | os.PathLike[str], *, svg: bool = False, **how: Any
) -> list[Path]:
    """Draws `figure` into a PNG file of 150 dots an inch, and into an SVG file beside it if wanted.

    The directory of `path`, such as `plots/growth.png`, is made if missing; returns the files.
    UserError if `metrics` is empty or `path` does not end in `.png`.
    """
    path = Path(path)
    if path.suffix != ".png":
        raise UserError(f"The plot {str(path)!r} must end in '.png', such as 'plots/growth.png'.")
    if not metrics:
        raise UserError(
            f"There is nothing to draw into {str(path)!r}: the metrics hold no epoch yet. "
            "Wait for the first epoch to end."
        )
    paths = (path, path.with_suffix(".svg")) if svg else (path,)
    return save_figure(figure(metrics, **how), *paths)


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
      A figure of its own, not known to pyplot: a row each for accuracy, loss, depth of every stage
      and what the policy noted, if it did; two columns (epochs, time).
    """
    noted = [line.get("notes") or {} for line in metrics]
    names = list(dict.fromkeys(name for notes in noted for name in notes))[:_MAX_NOTES]
    drawing = Figure(figsize=(13, 8.2 + 1.6 * len(names)), dpi=150, layout="constrained")
    heights = (1.3, 1, 1, *[0.65] * len(names))
    panels = drawing.subplots(len(heights), 2, sharex="col", sharey="row", height_ratios=heights)
    if metrics:
        epochs = _series(metrics, "epoch")
        axes = _Axis(epochs, epochs + 1, "epochs done"), _time_axis(metrics)
        for column, axis in zip(panels.T, axes, strict=True):
            accuracy, loss, depth, *others = column
            _draw_accuracy(accuracy, metrics, axis, validation_name, test_accuracy)
            _draw_loss(loss, metrics, axis)
            _draw_depths(depth, metrics, axis)
            for panel, name in zip(others, names, strict=True):
                style: dict[str, Any] = {"color": "k", "markersize": 4, "linewidth": 0.8}
                panel.plot(axis.end, _series(noted, name), ".-", label="noted", **style)
            _draw_marks(column, metrics, axis)
            # From the first epoch on: building the kernels may take longer than all epochs.
            first, last = axis.start[0], axis.end[-1]
            depth.set_xlim(first, last + 0.015 * (last - first))
            column[-1].set_xlabel(axis.label)
        panels[2, 0].xaxis.set_major_locator(MaxNLocator(8, integer=True))
        for panel in panels[:, 1]:
            # Outside the panels a legend cannot cover a curve.
            panel.legend(loc="upper left", bbox_to_anchor=(1.01, 1.03), frameon=False, fontsize=9.5)
    told = (name.replace("$", r"\$") for name in names)
    labels = ("accuracy (%)", "loss", "depth (blocks)", *told)
    for panel, label in zip(panels[:, 0], labels, strict=True):
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


class _Axis(NamedTuple):
    """Where each epoch begins and ends on an x axis, both [epochs]; the axis begins at 0."""

    start: np.ndarray
    end: np.ndarray
    label: str


def _series(metrics: Lines, key: str) -> np.ndarray:
    """The values of `key` [epochs]; NaN, which draws as a gap, where a line has none."""
    return np.array([line.get(key) for line in metrics], dtype=np.float64)


def _end_times(metrics: Lines) -> np.ndarray:
    """When each epoch ended, in seconds since the run's start [epochs]."""
    elapsed = _series(metrics, "elapsed")
    if not np.isfinite(elapsed).all():
        elapsed = np.cumsum(np.nan_to_num(_series(metrics, "seconds")))
    return np.maximum.accumulate(elapsed)


def _time_axis(metrics: Lines) -> _Axis:
    end = _end_times(metrics)
    # What lies between two epochs (growth, a checkpoint) is counted to the later one.
    start = np.append(max(0.0, end[0] - (metrics[0].get("seconds") or 0.0)), end[:-1])
    units = ((10 * 3600, 3600, "hours"), (120, 60, "minutes"), (0, 1, "seconds"))
    unit, label = next((unit, label) for least, unit, label in units if end[-1] >= least)
    return _Axis(start / unit, end / unit, label)


def _draw_marks(panels: Sequence[Axes], metrics: Lines, axis: _Axis) -> None:
    """Draws growths, fine-tune and drops of the learning rate into a column of panels.

    The first are of the accuracy, the loss, whose legend names the marks, and the depths, whose
    steps are the growths already.
    """
    legend = panels[1]
    if events := growth_events(metrics):
        starts = {line["epoch"]: start for line, start in zip(metrics, axis.start, strict=True)}
        x = [starts[event["epoch"]] for event in events]
        stages = [event["stage"] for event in events]
        colors = [MARK_COLOR if stage is None else PALETTE[stage % 5] for stage in stages]
        for panel in panels[:2]:
            across: dict[str, Any] = {"transform": panel.get_xaxis_transform()}
            panel.vlines(x, 0, 0.04, colors=colors, linewidth=1.0, **across)
            if len(events) <= _MAX_GROWTH_LINES:
                panel.vlines(x, 0.04, 1, colors="#d0d0d0", linewidth=0.6, zorder=0.9, **across)
        legend.plot([], [], "|", color=MARK_COLOR, markersize=8, label="growth (colour: stage)")
    finetune = axis.start[[line.get("phase") == "finetune" for line in metrics]]
    if finetune.size:
        for panel in panels:
            panel.axvspan(finetune[0], axis.end[-1], color=_SHADE_COLOR, linewidth=0, zorder=0)
        legend.patches[-1].set_label("fine-tune")
    rates = pairwise(_series(metrics, "learning_rate"))
    drops = [(i, rate) for i, (before, rate) in enumerate(rates, start=1) if rate < before]
    if 0 < len(drops) <= _MAX_RATE_LINES:
        dashed: dict[str, Any] = {"color": MARK_COLOR, "linewidth": 0.9, "linestyle": (0, (4, 3))}
        for panel in panels:
            for i, _ in drops:
                panel.axvline(axis.start[i], **dashed)
        values = ", ".join(f"{rate:.3g}" for _, rate in drops)
        legend.plot([], [], label=f"learning rate drops:\n{values}", **dashed)


def _draw_accuracy(
    panel: Axes, metrics: Lines, axis: _Axis, validation_name: str, test_accuracy: float | None
) -> None:
    kept = np.array(find_kept(metrics))
    validation = _series(metrics, "validation_accuracy")
    train = np.where(kept, _series(metrics, "train_accuracy"), np.nan)
    best = best_accuracy(metrics)
    name = f"{validation_name}\nbest {best:.2f} %" if np.isfinite(best) else validation_name
    _draw_curves(panel, axis.end[kept], train[kept], validation[kept], name)
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


def _draw_loss(panel: Axes, metrics: Lines, axis: _Axis) -> None:
    kept = np.array(find_kept(metrics))
    train, validation = (_series(metrics, f"{part}_loss")[kept] for part in ("train", "validation"))
    _draw_curves(panel, axis.end[kept], train, validation, "validation")
    panel.margins(y=_BOTTOM_ROOM)
    values = np.concatenate([train, validation])
    low, high = np.nanmin(values, initial=np.inf), np.nanmax(values, initial=0)
    if low > 0 and high / low > 5:
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,)))
        panel.yaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_minor_formatter("")


def _draw_depths(panel: Axes, metrics: Lines, axis: _Axis) -> None:
    depths = np.array(kept_depths(metrics))  # [epochs, stages]
    times = np.stack([axis.start, axis.end], axis=1).ravel()
    for stage, course in enumerate(depths.T):
        first, last = course[0], course[-1]
        panel.plot(
            times,
            np.repeat(course, 2),
            color=PALETTE[stage % 5],
            # Round robin keeps the stages equal: each line is thinner than the one under it, so
            # that lines at one depth are all seen.
            linewidth=len(depths.T) - stage,
            solid_joinstyle="miter",
            solid_capstyle="butt",
            label=f"stage {stage}: {first}" + (f" to {last}" if first != last else ""),
        )
    panel.set_ylim(0, depths.max() * 1.06 + 0.3)
    panel.yaxis.set_major_locator(MaxNLocator(6, integer=True))


def _draw_curves(
    panel: Axes, x: np.ndarray, train: np.ndarray, validation: np.ndarray, name: str
) -> None:
    marker = "o" if len(x) <= _MAX_EPOCHS_WITH_DOTS else ""
    style: dict[str, Any] = {"marker": marker, "markersize": 3}
    style["linewidth"] = float(np.clip(250 / max(1, len(x)), 0.6, 1.3))
    # The train curve is the smoother one and would be lost under the other.
    for y, label, color, order in ((train, "train", "#e69f00", 2.2), (validation, name, "k", 2.1)):
        if np.isfinite(y).any():
            panel.plot(x, y, label=label, color=color, zorder=order, **style)


def _summary(metrics: Lines) -> str:
    if not metrics:
        return "no epoch is done yet"
    course = kept_depths(metrics)
    depths = result.format_depths(course[-1])
    if growths := sum(before != after for before, after in pairwise(course)):
        start = result.format_depths(course[0])
        depths = f"{start} grown {result.count_times(growths)} to {depths}"
    epochs = result.format_count(metrics[-1]["epoch"] + 1, "epoch")
    trials = result.on_trial(sum(line.get("trial") is not None for line in metrics))
    return f"{depths}, {epochs}{trials}, {result.format_duration(_end_times(metrics)[-1])}"
