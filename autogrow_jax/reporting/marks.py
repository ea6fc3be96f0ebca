"""Where epochs stand on an x axis, and what happened there: growths, fine-tune, learning rates."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from autogrow_jax.reporting.metrics import growth_events

__all__ = [
    "MARK_COLOR",
    "Axis",
    "draw_marks",
    "epoch_axis",
    "epoch_times",
    "series",
    "stage_color",
    "time_axis",
]

MARK_COLOR = "#595959"
# Of the palette of Okabe and Ito; black, orange and yellow are taken by the curves.
_STAGE_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9")
_SHADE_COLOR = "#f2eee3"

# More lines than this would hide the curves; the ticks at the bottom always show them all.
_MAX_GROWTH_LINES = 40
# A schedule with more steps than this is a smooth one, and its steps are no events.
_MAX_RATE_LINES = 8
# A panel is about this many points wide.
_PANEL_POINTS = 350


class Axis(NamedTuple):
    """Where an x axis begins, and where each epoch begins and ends on it, both [epochs]."""

    origin: float
    start: np.ndarray
    end: np.ndarray
    label: str


def series(metrics: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    """The values of `key` [epochs]; NaN, which draws as a gap, where a line has none."""
    values = [line.get(key) for line in metrics]
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def epoch_axis(metrics: Sequence[Mapping[str, Any]]) -> Axis:
    """The x axis of epochs; `metrics` has at least one line."""
    epochs = np.array([line["epoch"] for line in metrics], dtype=np.float64)
    return Axis(origin=epochs[0], start=epochs, end=epochs + 1, label="epochs done")


def time_axis(metrics: Sequence[Mapping[str, Any]]) -> Axis:
    """The x axis of time since the run's start; `metrics` has at least one line."""
    start, end = epoch_times(metrics)
    if end[-1] >= 10 * 3600:
        unit, label = 3600, "hours"
    else:
        unit, label = (60, "minutes") if end[-1] >= 120 else (1, "seconds")
    return Axis(origin=0.0, start=start / unit, end=end / unit, label=label)


def epoch_times(metrics: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """When each epoch began and ended, in seconds since the run's start, both [epochs]."""
    seconds = np.nan_to_num(series(metrics, "seconds"))
    elapsed = series(metrics, "elapsed")
    end = elapsed if np.isfinite(elapsed).all() else np.cumsum(seconds)
    end = np.maximum.accumulate(end)
    # What lies between two epochs (growth, a checkpoint) is counted to the later one.
    return np.concatenate([[max(0.0, end[0] - seconds[0])], end[:-1]]), end


def stage_color(stage: int) -> str:
    """The colour of a stage (from 0), the same in every panel."""
    return _STAGE_COLORS[stage % len(_STAGE_COLORS)]


def draw_marks(
    accuracy: Axes,
    loss: Axes,
    depth: Axes,
    metrics: Sequence[Mapping[str, Any]],
    axis: Axis,
) -> None:
    """Draws growths, fine-tune and drops of the learning rate into one column of panels.

    Args:
      accuracy: the panel that says which part is fine-tune.
      loss: the panel that carries the legend of the marks and the learning rates.
      depth: the panel of depths, whose steps are the growths already.
      metrics: lines of metrics.jsonl, at least one.
      axis: the column's x axis.
    """
    _draw_growths((accuracy, loss), metrics, axis)
    _draw_finetune((accuracy, loss, depth), metrics, axis)
    _draw_rates((accuracy, loss, depth), metrics, axis)


def _draw_growths(panels: Sequence[Axes], metrics: Sequence[Mapping[str, Any]], axis: Axis) -> None:
    events = growth_events(metrics)
    if not events:
        return
    starts = {line["epoch"]: start for line, start in zip(metrics, axis.start, strict=True)}
    x = [starts[event["epoch"]] for event in events]
    colors = [
        MARK_COLOR if event["stage"] is None else stage_color(event["stage"]) for event in events
    ]
    for panel in panels:
        across = panel.get_xaxis_transform()
        panel.vlines(x, 0, 0.04, colors=colors, linewidth=1.0, transform=across)
        if len(events) <= _MAX_GROWTH_LINES:
            panel.vlines(x, 0.04, 1, colors="#d0d0d0", linewidth=0.6, transform=across, zorder=0.9)
    panels[-1].plot([], [], "|", color=MARK_COLOR, markersize=8, label="growth (colour: stage)")


def _draw_finetune(
    panels: Sequence[Axes], metrics: Sequence[Mapping[str, Any]], axis: Axis
) -> None:
    first = next((i for i, line in enumerate(metrics) if line.get("phase") == "finetune"), None)
    if first is None:
        return
    start, end = axis.start[first], axis.end[-1]
    for panel in panels:
        panel.axvspan(start, end, color=_SHADE_COLOR, linewidth=0, zorder=0)
    # In the widest gap between the lines of the learning rate, upright where it is narrow.
    drops = [axis.start[i] for i, _ in _learning_rate_drops(metrics) if i >= first]
    edges = np.array([start, *drops, end])
    widest = int(np.argmax(np.diff(edges)))
    width = _PANEL_POINTS * (edges[widest + 1] - edges[widest]) / max(end - axis.origin, 1e-9)
    panels[0].text(
        (edges[widest] + edges[widest + 1]) / 2,
        0.08,
        "fine-tune",
        transform=panels[0].get_xaxis_transform(),
        ha="center",
        va="bottom",
        rotation=0 if width > 60 else 90,
        fontsize=9,
        color=MARK_COLOR,
    )


def _draw_rates(
    panels: Sequence[Axes],
    metrics: Sequence[Mapping[str, Any]],
    axis: Axis,
) -> None:
    drops = _learning_rate_drops(metrics)
    if not drops:
        return
    labelled = panels[1]
    for i, rate in drops:
        for panel in panels:
            panel.axvline(axis.start[i], color=MARK_COLOR, linewidth=0.9, linestyle=(0, (4, 3)))
        labelled.annotate(
            f"{rate:.3g}",
            (axis.start[i], 0.98),
            xycoords=labelled.get_xaxis_transform(),
            xytext=(2, 0),
            textcoords="offset points",
            rotation=90,
            ha="left",
            va="top",
            fontsize=8,
            color=MARK_COLOR,
        )
    labelled.plot(
        [],
        [],
        color=MARK_COLOR,
        linewidth=0.9,
        linestyle=(0, (4, 3)),
        label="learning rate drops:\n" + ", ".join(f"{rate:.3g}" for _, rate in drops),
    )


def _learning_rate_drops(metrics: Sequence[Mapping[str, Any]]) -> list[tuple[int, float]]:
    """(index of the line, its learning rate) of each drop; none where the schedule is smooth."""
    rates = [line.get("learning_rate") for line in metrics]
    drops = [
        (i, rate)
        for i, (before, rate) in enumerate(pairwise(rates), start=1)
        if before is not None and rate is not None and rate < before
    ]
    return drops if len(drops) <= _MAX_RATE_LINES else []
