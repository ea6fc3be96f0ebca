"""The panel of accuracy over a column of the table, such as the interval K."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from autogrow_jax.studies import panels
from autogrow_jax.studies.marks import Mark, escape
from autogrow_jax.studies.records import Table

__all__ = ["draw_names"]

# Two ticks, or two labels at the right edge, are at least this part of the panel apart.
_TICK_ROOM, _LABEL_ROOM = 0.07, 0.055


def draw_names(panel: Axes, view: panels.View, table: Table) -> None:
    """Draws accuracy over the names of the column `Section.x`.

    Numbers make an axis, and a name that is none a dashed line across it; where fewer than two
    names are numbers, the names stand side by side.

    Args:
      panel: where to; its accuracy axis is set.
      view: of `table`.
      table: whose section has an `x`.
    """
    column = table.section.columns.index(table.section.x)
    names = list(dict.fromkeys(mark.line.names[column] for mark in view.marks))
    numbers = {name: _number(name) for name in names}
    known = {name: number for name, number in numbers.items() if number is not None}
    is_axis = len(set(known.values())) > 1
    places = known if is_axis else {name: float(i) for i, name in enumerate(names)}

    series = list(dict.fromkeys(mark.series for mark in view.marks))
    # Side by side where marks of several series would cover each other.
    step = 0 if is_axis else 0.5 / len(series)

    def points_of(mark: Mark) -> np.ndarray:
        """[seeds, 2], none where the name has no place on the axis."""
        x = places.get(mark.line.names[column])
        if x is None:
            return np.empty((0, 2))
        shift = (series.index(mark.series) - (len(series) - 1) / 2) * step if step else 0
        return mark.points(lambda record: x + shift)

    panel.set_xlabel(escape(table.section.x))
    _set_ticks(panel, places, is_axis)
    if is_axis:
        for one in series:
            marks = [mark for mark in view.drawn if mark.series == one]
            color = marks[-1].color if len(series) > 1 else panels.LINE_COLOR
            panels.join(panel, marks, points_of, color)
    panels.draw(panel, view, points_of)
    for mark in view.paper:
        points = points_of(mark)
        if len(points):
            panels.draw_published(panel, mark, points[0, 0])
    _draw_across(panel, view, [m for m in view.drawn if m.line.names[column] not in places], column)


def _draw_across(panel: Axes, view: panels.View, marks: list[Mark], column: int) -> None:
    """Dashed lines for rows without a place on the axis, named at the right edge."""
    room = _LABEL_ROOM * (view.top - view.bottom)
    label_at = -math.inf
    for mark in sorted(marks, key=lambda mark: float(mark.accuracies.mean())):
        mean, std = float(mark.accuracies.mean()), mark.line.stat("accuracy").std or 0.0
        panel.axhline(mean, color=mark.color, linestyle="--", linewidth=1.3, zorder=1.4)
        panel.axhspan(mean - std, mean + std, color=mark.color, alpha=0.1, linewidth=0, zorder=1)
        label_at = max(mean, label_at + room)
        panel.annotate(
            escape(mark.line.names[column]),
            (1.01, label_at),
            xycoords=panel.get_yaxis_transform(),
            va="center",
            fontsize=8.5,
            color=mark.color,
        )


def _set_ticks(panel: Axes, places: dict[str, float], is_axis: bool) -> None:
    if not is_axis:
        panel.set_xlim(-0.5, len(places) - 0.5)
        panel.set_xticks(list(places.values()), [escape(name) for name in places])
        if sum(map(len, places)) > 36:
            panel.tick_params(axis="x", rotation=35)
        return
    ordered = sorted({number: name for name, number in places.items()}.items())
    low, high = ordered[0][0], ordered[-1][0]
    is_log = low > 0 and high > panels.WIDE * low
    if is_log:
        panels.set_log(panel, low, high)
    else:
        panel.set_xlim(low - 0.06 * (high - low), high + 0.06 * (high - low))
    scale = math.log if is_log else float
    ticks: list[tuple[float, str]] = []
    for number, name in ordered:
        share = _TICK_ROOM * (scale(high) - scale(low))
        if not ticks or scale(number) - scale(ticks[-1][0]) > share:
            ticks.append((number, escape(name)))
    panel.xaxis.set_major_locator(FixedLocator([number for number, _ in ticks]))
    panel.xaxis.set_ticklabels([name for _, name in ticks])
    panel.xaxis.set_minor_locator(NullLocator())


def _number(name: str) -> float | None:
    """Of a name such as "3", "0.5" or "75 %"; None of any other."""
    try:
        number = float(name.strip().removesuffix("%"))
    except ValueError:
        return None
    return number if math.isfinite(number) else None
