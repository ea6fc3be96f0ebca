"""Where epochs stand on an x axis, and what happened there: growths, fine-tune, learning rates."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from autogrow_jax.reporting.metrics import Lines, growth_events

MARK_COLOR = "#595959"
# Of the palette of Okabe and Ito; black, orange and yellow are taken by the curves.
_STAGE_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9")
_SHADE_COLOR = "#f2eee3"

# More lines than this would hide the curves; the ticks at the bottom always show them all.
_MAX_GROWTH_LINES = 40
# A schedule with more steps than this is a smooth one, and its steps are no events.
_MAX_RATE_LINES = 8


class Axis(NamedTuple):
    """Where each epoch begins and ends on an x axis, both [epochs]; the axis begins at 0."""

    start: np.ndarray
    end: np.ndarray
    label: str


def series(metrics: Lines, key: str) -> np.ndarray:
    """The values of `key` [epochs]; NaN, which draws as a gap, where a line has none."""
    values = [line.get(key) for line in metrics]
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def end_times(metrics: Lines) -> np.ndarray:
    """When each epoch ended, in seconds since the run's start [epochs]."""
    elapsed = series(metrics, "elapsed")
    if not np.isfinite(elapsed).all():
        elapsed = np.cumsum(np.nan_to_num(series(metrics, "seconds")))
    return np.maximum.accumulate(elapsed)


def epoch_axis(metrics: Lines) -> Axis:
    """The x axis of epochs; `metrics` has at least one line."""
    epochs = series(metrics, "epoch")
    return Axis(start=epochs, end=epochs + 1, label="epochs done")


def time_axis(metrics: Lines) -> Axis:
    """The x axis of time since the run's start; `metrics` has at least one line."""
    end = end_times(metrics)
    # What lies between two epochs (growth, a checkpoint) is counted to the later one.
    start = np.append(max(0.0, end[0] - (metrics[0].get("seconds") or 0.0)), end[:-1])
    if end[-1] >= 10 * 3600:
        unit, label = 3600, "hours"
    else:
        unit, label = (60, "minutes") if end[-1] >= 120 else (1, "seconds")
    return Axis(start / unit, end / unit, label)


def stage_color(stage: int) -> str:
    """The colour of a stage (from 0), the same in every panel."""
    return _STAGE_COLORS[stage % len(_STAGE_COLORS)]


def draw_marks(panels: Sequence[Axes], metrics: Lines, axis: Axis) -> None:
    """Draws growths, fine-tune and drops of the learning rate into a column of panels.

    Args:
      panels: of the accuracy, the loss, whose legend names the marks, and the depths, whose steps
        are the growths already.
      metrics: lines of metrics.jsonl, at least one.
      axis: the column's x axis.
    """
    legend = panels[1]
    if events := growth_events(metrics):
        starts = {line["epoch"]: start for line, start in zip(metrics, axis.start, strict=True)}
        x = [starts[event["epoch"]] for event in events]
        stages = [event["stage"] for event in events]
        colors = [MARK_COLOR if stage is None else stage_color(stage) for stage in stages]
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
    rates = pairwise(series(metrics, "learning_rate"))
    drops = [(i, rate) for i, (before, rate) in enumerate(rates, start=1) if rate < before]
    if 0 < len(drops) <= _MAX_RATE_LINES:
        dashed: dict[str, Any] = {"color": MARK_COLOR, "linewidth": 0.9, "linestyle": (0, (4, 3))}
        for panel in panels:
            for i, _ in drops:
                panel.axvline(axis.start[i], **dashed)
        values = ", ".join(f"{rate:.3g}" for _, rate in drops)
        legend.plot([], [], label=f"learning rate drops:\n{values}", **dashed)
