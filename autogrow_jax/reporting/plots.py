"""The picture of a run: accuracy, loss and depth, over epochs and over time.

Drawn from the lines of metrics.jsonl alone, without pyplot and its global state.
"""

import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from autogrow_jax.errors import UserError
from autogrow_jax.reporting import numbers, result
from autogrow_jax.reporting.drawing import (
    MARK_COLOR,
    PALETTE,
    draw_curves,
    draw_front,
    escape,
    save_figure,
    style_panel,
)
from autogrow_jax.reporting.metrics import (
    Lines,
    best_accuracy,
    find_kept,
    growth_events,
    kept_depths,
    path_to,
)

_SHADE_COLOR = "#f2eee3"

# More lines than this would hide the curves; the ticks at the bottom always show them all.
_MAX_GROWTH_LINES = 40
# A schedule with more steps than this is a smooth one, and its steps are no events.
_MAX_RATE_LINES = 8
# Numbers that a policy notes beyond so many have no panel.
_MAX_NOTES = 4
# The part of a panel's height that is kept free at the bottom, for the growth ticks.
_BOTTOM_ROOM = 0.07


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
    front: Sequence[Mapping[str, Any]] = (),
    recommended: Sequence[int] = (),
) -> Figure:
    """Draws a run, for notebooks: `display(figure(metrics))`.

    What an epoch ended with stands at the number of epochs done then, so epoch 0 at 1; a growth
    before epoch e stands at e. Curves are those of the nets that were kept and, of a front, of the
    one that is recommended; trials that were not, and other candidates, are dots.

    Args:
      metrics: lines of metrics.jsonl, of a run that may still go on; none gives empty panels.
      title: the first line over the picture.
      validation_name: what the validation accuracy was measured on, for the legend.
      test_accuracy: percent, where it is known.
      front, recommended: as result.json has them, of a run that has a front and is over.

    Returns:
      A figure of its own, not known to pyplot: a row each for accuracy, loss, depth of every stage
      and what the policy noted, if it did, two columns (epochs, time); below, the front if any.
    """
    noted = [line.get("notes") or {} for line in metrics]
    names = list(dict.fromkeys(name for notes in noted for name in notes))[:_MAX_NOTES]
    height = 8.2 + 1.6 * len(names)
    whole = Figure(figsize=(13, height + 4 * bool(front)), dpi=150, layout="constrained")
    drawing: Any = whole
    if front:
        both: Any = whole.subfigures(2, 1, height_ratios=(height, 4))
        drawing = both[0]
        draw_front(both[1].subplots(), front, recommended)
    heights = (1.3, 1, 1, *[0.65] * len(names))
    panels = drawing.subplots(len(heights), 2, sharex="col", sharey="row", height_ratios=heights)
    if metrics:
        kept = _find_shown(metrics, recommended)
        best = best_accuracy(path_to(metrics, recommended) if recommended else metrics)
        told = f"\nbest {numbers.round_percent(best)} %" if np.isfinite(best) else ""
        epochs = _series(metrics, "epoch")
        axes = Axis(epochs, epochs + 1, "epochs done"), time_axis(metrics)
        for column, axis in zip(panels.T, axes, strict=True):
            accuracy, loss, depth, *others = column
            _draw_accuracy(accuracy, metrics, axis, kept, validation_name + told, test_accuracy)
            _draw_loss(loss, metrics, axis, kept)
            _draw_depths(depth, metrics, axis)
            for panel, name in zip(others, names, strict=True):
                style: dict[str, Any] = {"color": "k", "markersize": 4, "linewidth": 0.8}
                panel.plot(axis.end, _series(noted, name), ".-", label="noted", **style)
            _draw_marks(column, metrics, axis, kept)
            # From the first epoch on: building the kernels may take longer than all epochs.
            first, last = axis.start[0], axis.end[-1]
            depth.set_xlim(first, last + 0.015 * (last - first))
            column[-1].set_xlabel(axis.label)
        panels[2, 0].xaxis.set_major_locator(MaxNLocator(8, integer=True))
        for panel in panels[:, 1]:
            # Outside the panels a legend cannot cover a curve.
            panel.legend(loc="upper left", bbox_to_anchor=(1.01, 1.03), frameon=False, fontsize=9.5)
    labels = map(escape, ("accuracy (%)", "loss", "depth (blocks)", *names))
    for panel, label in zip(panels[:, 0], labels, strict=True):
        panel.set_ylabel(label)
    for panel in panels.flat:
        style_panel(panel)
    drawing.align_ylabels(panels[:, 0])
    summary = _summary(metrics, recommended)
    panels[0, 0].set_title(summary, loc="left", fontsize=10, color=MARK_COLOR, pad=10)
    if title:
        drawing.suptitle(escape(title), x=0.01, ha="left", fontsize=15)
    return whole


def _find_shown(metrics: Lines, recommended: Sequence[int]) -> np.ndarray:
    """Whether each epoch is part of the curves [epochs]."""
    front = [recommended and line.get("candidate") is not None for line in metrics]
    found = zip(metrics, find_kept(metrics), front, strict=True)
    return np.array([k and not (f and line["depths"] != list(recommended)) for line, k, f in found])


class Axis(NamedTuple):
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


def time_axis(metrics: Lines) -> Axis:
    """Lays epochs out over the time since the run's start, in a unit that suits it."""
    end = _end_times(metrics)
    # What lies between two epochs (growth, a checkpoint) is counted to the later one.
    start = np.append(max(0.0, end[0] - (metrics[0].get("seconds") or 0.0)), end[:-1])
    units = ((10 * 3600, 3600, "hours"), (120, 60, "minutes"), (0, 1, "seconds"))
    unit, label = next((unit, label) for least, unit, label in units if end[-1] >= least)
    return Axis(start / unit, end / unit, label)


def _draw_marks(panels: Sequence[Axes], metrics: Lines, axis: Axis, kept: np.ndarray) -> None:
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
    # A front's nets, trained by turns, have their own: those of the curves.
    rates = pairwise(
        zip(np.flatnonzero(kept), _series(metrics, "learning_rate")[kept], strict=True)
    )
    drops = [(i, rate) for (_, before), (i, rate) in rates if rate < before]
    if 0 < len(drops) <= _MAX_RATE_LINES:
        dashed: dict[str, Any] = {"color": MARK_COLOR, "linewidth": 0.9, "linestyle": (0, (4, 3))}
        for panel in panels:
            for i, _ in drops:
                panel.axvline(axis.start[i], **dashed)
        values = ", ".join(f"{rate:.3g}" for _, rate in drops)
        legend.plot([], [], label=f"learning rate drops:\n{values}", **dashed)


def _draw_accuracy(
    panel: Axes,
    metrics: Lines,
    axis: Axis,
    kept: np.ndarray,
    name: str,
    test_accuracy: float | None,
) -> None:
    validation = _series(metrics, "validation_accuracy")
    train = np.where(kept, _series(metrics, "train_accuracy"), np.nan)
    draw_curves(panel, metrics, kept, axis.end, train, validation, name)
    grey: dict[str, Any] = {"color": MARK_COLOR, "zorder": 2}
    if not kept.all():
        dropped = find_kept(metrics).count(False)
        counts = {"tried, not kept": dropped, "other candidates": np.sum(~kept) - dropped}
        told = "\n".join(f"{what}: {count:,}" for what, count in counts.items() if count)
        hollow = {"markersize": 3, "fillstyle": "none", "markeredgewidth": 0.7, **grey}
        panel.plot(axis.end[~kept], validation[~kept], "o", label=told, **hollow)
    shown = np.stack([train, validation])
    if test_accuracy is not None:
        shown = np.append(shown, np.full((2, 1), test_accuracy), axis=1)
        star: dict[str, Any] = {"color": "#f0e442", "markersize": 15, "markeredgecolor": "black"}
        label = f"test {numbers.round_percent(test_accuracy)} %"
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
        below = f"{numbers.format_count(int(np.sum(lowest < most)), 'epoch')} below the panel"
        panel.plot([], [], "v", markersize=5, label=below, **grey)
    span = max(top - bottom, 0.5)
    panel.set_ylim(bottom - _BOTTOM_ROOM * span, top + 0.04 * span)


def _draw_loss(panel: Axes, metrics: Lines, axis: Axis, kept: np.ndarray) -> None:
    losses = np.stack([_series(metrics, f"{part}_loss") for part in ("train", "validation")])
    draw_curves(panel, metrics, kept, axis.end, losses[0], losses[1], "validation")
    panel.margins(y=_BOTTOM_ROOM)
    values = losses[:, kept]
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
        first, last = course[0], course.max()
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


def _summary(metrics: Lines, recommended: Sequence[int]) -> str:
    if not metrics:
        return "no epoch is done yet"
    depths = start = numbers.format_depths(metrics[0]["depths"])
    if growths := growth_events(metrics):
        last = numbers.format_depths(growths[-1]["depths"])
        depths = f"{start} grown {numbers.count_times(len(growths))} to {last}"
    if recommended:
        depths += f", {numbers.format_depths(recommended)} recommended"
    epochs = numbers.format_count(metrics[-1]["epoch"] + 1, "epoch")
    trials = result.on_trial(sum(line.get("trial") is not None for line in metrics))
    return f"{depths}, {epochs}{trials}, {numbers.format_duration(_end_times(metrics)[-1])}"
