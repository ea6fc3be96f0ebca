"""The panels of a study's figure: marks with their spread, over one accuracy axis."""

import math
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes

from autogrow_jax.studies.marks import Mark, View, escape
from autogrow_jax.studies.records import Table
from autogrow_jax.studies.study import Published

__all__ = ["AXES", "LINE_COLOR", "PAPER_COLOR", "draw_names", "draw_numbers", "style_of"]

LINE_COLOR, PAPER_COLOR = "#b5b5b5", "#8c8c8c"
# What panels are over: numbers of a `Record`.
AXES = {
    "blocks": "blocks in all stages",
    "flops": "FLOPs of the net (forward, one image)",
    "training_flops": "FLOPs of the training that found it",
}
# An axis whose largest value is so many times its smallest is logarithmic.
_WIDE = 8
# Two ticks, or two labels at the right edge, are at least this part of the panel apart.
_TICK_ROOM, _LABEL_ROOM = 0.07, 0.055

# Of a mark, where it stands on the x-axis and its accuracy, for each seed [seeds, 2].
Points = Callable[[Mark], np.ndarray]


def draw_numbers(panel: Axes, view: View, name: str) -> None:
    """Accuracy over a number of each record: whole numbers of blocks, or FLOPs."""

    def points_of(mark: Mark) -> np.ndarray:
        return mark.points(attrgetter(name))

    if view.among_fixed:
        for series in dict.fromkeys(mark.series for mark in view.drawn):
            fixed = [m for m in view.drawn if m.series == series and not m.line.found]
            _join(panel, fixed, points_of)
    is_flops = name != "blocks"
    paper = [] if is_flops else [(m, p, sum(p.depths)) for m, p in view.paper if p.depths]
    _draw_marks(panel, view, points_of, paper)
    ours = [points_of(mark)[:, 0] for mark in (*view.drawn, *view.below)]
    x = np.concatenate([*ours, [blocks for *_, blocks in paper]])
    if not _set_range(panel, x.min(), x.max(), may_be_log=is_flops):
        locator = ticker.MaxNLocator(5 if is_flops else 7, integer=not is_flops)
        panel.xaxis.set_major_locator(locator)
    if is_flops:
        panel.xaxis.set_major_formatter(ticker.EngFormatter(sep=" "))
    panel.set_xlabel(AXES[name])


def draw_names(panel: Axes, view: View, table: Table) -> None:
    """Accuracy over the names of the column `Section.x`.

    Numbers make an axis, and a name that is none a dashed line across it; where fewer than two
    names are numbers, the names stand side by side.
    """
    column = table.section.columns.index(table.section.x)
    names = list(dict.fromkeys(mark.line.names[column] for mark in view.marks))
    numbers = ((name, _number(name)) for name in names)
    places = {name: number for name, number in numbers if number is not None}
    is_axis = len(set(places.values())) > 1
    if not is_axis:
        places = {name: float(i) for i, name in enumerate(names)}
    series = list(dict.fromkeys(mark.series for mark in view.marks))
    # Side by side where marks of several series would cover each other.
    step = 0 if is_axis else 0.5 / len(series)

    def points_of(mark: Mark) -> np.ndarray:
        """[seeds, 2], none where the name has no place on the axis."""
        x = places.get(mark.line.names[column])
        if x is None:
            return np.empty((0, 2))
        shift = (series.index(mark.series) - (len(series) - 1) / 2) * step
        return mark.points(lambda record: x + shift)

    panel.set_xlabel(escape(table.section.x))
    if is_axis:
        _set_ticks(panel, places)
        for one in series:
            marks = [mark for mark in view.drawn if mark.series == one]
            color = marks[-1].color if marks and len(series) > 1 else LINE_COLOR
            _join(panel, marks, points_of, color)
    else:
        panel.set_xlim(-0.5, len(places) - 0.5)
        panel.set_xticks(list(places.values()), [escape(name) for name in places])
        if sum(map(len, places)) > 36:
            panel.tick_params(axis="x", rotation=35)
    paper = [(m, p, points_of(m)[0, 0]) for m, p in view.paper if len(points_of(m))]
    _draw_marks(panel, view, points_of, paper)
    _draw_across(panel, view, [m for m in view.drawn if m.line.names[column] not in places], column)


def _draw_marks(
    panel: Axes,
    view: View,
    points_of: Points,
    paper: Sequence[tuple[Mark, Published, float]],
) -> None:
    """Draws each row at its means, and what the paper has for it at an x."""
    for mark in view.below:
        if len(points := points_of(mark)):
            style = style_of(mark) | {"marker": "v", "markersize": 6, "clip_on": False}
            across = panel.get_xaxis_transform()
            panel.plot([points[:, 0].mean()], [0.02], transform=across, **style)
    for mark in view.drawn:
        x, y = points_of(mark).T
        if len(x) > 1:
            panel.plot(x, y, ".", color=mark.color, markersize=4, alpha=0.6, zorder=2)
        if len(x):
            spread = {"xerr": x.std(ddof=1), "yerr": y.std(ddof=1)} if len(x) > 1 else {}
            style = style_of(mark) | {"elinewidth": 1, "zorder": 4 if mark.line.found else 3}
            panel.errorbar([x.mean()], [y.mean()], fmt=mark.shape, **style, **spread)
    for mark, published, at in paper:
        # Over our own marks and a little larger: where both agree it is a ring around ours.
        hollow: dict[str, Any] = {"color": PAPER_COLOR, "markerfacecolor": "none", "zorder": 3.5}
        size = style_of(mark)["markersize"] + 2
        panel.plot([at], [published.accuracy], mark.shape, markersize=size, **hollow)


def style_of(mark: Mark) -> dict[str, Any]:
    star = mark.shape == "*"
    return {
        "color": mark.color,
        "markersize": 15 if star else 7,
        "markeredgecolor": "black" if star else "white",
        "markeredgewidth": 0.8,
    }


def _join(panel: Axes, marks: Sequence[Mark], points_of: Points, color: str = LINE_COLOR) -> None:
    """Draws a line through the means of `marks`, from left to right."""
    means = [points_of(mark).mean(axis=0) for mark in marks if len(points_of(mark))]
    if len(means) > 1:
        x, y = np.array(sorted(means, key=lambda mean: mean[0])).T
        panel.plot(x, y, color=color, linewidth=1.2, zorder=1.5)


def _draw_across(panel: Axes, view: View, marks: Sequence[Mark], column: int) -> None:
    """Dashed lines for rows without a place on the axis, named at the right edge."""
    label_at = -math.inf
    for mark in sorted(marks, key=lambda mark: mark.mean):
        low, high = mark.mean - mark.std, mark.mean + mark.std
        panel.axhline(mark.mean, color=mark.color, linestyle="--", linewidth=1.3, zorder=1.4)
        panel.axhspan(low, high, color=mark.color, alpha=0.1, linewidth=0, zorder=1)
        label_at = max(mark.mean, label_at + _LABEL_ROOM * (view.top - view.bottom))
        panel.annotate(
            escape(mark.line.names[column]),
            (1.01, label_at),
            xycoords=panel.get_yaxis_transform(),
            va="center",
            fontsize=8.5,
            color=mark.color,
        )


def _set_ticks(panel: Axes, places: dict[str, float]) -> None:
    """Sets the x-axis to the numbers that names stand for; a tick for each that has the room."""
    ordered = sorted({number: name for name, number in places.items()}.items())
    low, high = ordered[0][0], ordered[-1][0]
    scale = math.log if _set_range(panel, low, high, may_be_log=True) else float
    ticks: list[tuple[float, str]] = []
    for number, name in ordered:
        room = _TICK_ROOM * (scale(high) - scale(low))
        if not ticks or scale(number) - scale(ticks[-1][0]) > room:
            ticks.append((number, escape(name)))
    panel.xaxis.set_major_locator(ticker.FixedLocator([number for number, _ in ticks]))
    panel.xaxis.set_ticklabels([name for _, name in ticks])
    panel.xaxis.set_minor_locator(ticker.NullLocator())


def _set_range(panel: Axes, low: float, high: float, *, may_be_log: bool) -> bool:
    """Sets the x-axis from `low` to `high` and a little further; returns whether by logarithm."""
    if not (may_be_log and low > 0 and high > _WIDE * low):
        pad = 0.06 * (high - low) if high - low > 0.05 * high else max(0.2 * high, 1.0)
        panel.set_xlim(low - pad, high + pad)
        return False
    decades = math.log10(high / low)
    panel.set_xscale("log")
    panel.set_xlim(low / 10 ** (0.06 * decades), high * 10 ** (0.06 * decades))
    panel.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if decades < 1.8 else (1,)))
    panel.xaxis.set_minor_formatter(ticker.NullFormatter())
    return True


def _number(name: str) -> float | None:
    """Of a name such as "3", "0.5" or "75 %"; None of any other."""
    try:
        number = float(name.strip().removesuffix("%"))
    except ValueError:
        return None
    return number if math.isfinite(number) else None
