"""The panels of a study's figure: marks with their spread, over one accuracy axis."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

from autogrow_jax.studies.marks import Mark
from autogrow_jax.studies.study import Published

__all__ = [
    "LINE_COLOR",
    "PAPER_COLOR",
    "WIDE",
    "View",
    "draw",
    "draw_published",
    "join",
    "join_fixed",
    "set_log",
    "set_scale",
    "style_of",
]

LINE_COLOR = "#b5b5b5"
PAPER_COLOR = "#8c8c8c"

# Of a mark, where it stands on the x-axis and its accuracy, for each seed [seeds, 2].
Points = Callable[[Mark], np.ndarray]

# An axis whose largest value is so many times its smallest is logarithmic.
WIDE = 8
# Rows so many times the spread of all others under them are left below the panels; a quarter of
# all rows at most.
_FAR_BELOW = 3
# The paper's marks may widen an axis by this part of it at either end.
_PAPER_ROOM = 0.35
# The least that the accuracy axis spans, in percentage points.
_MIN_POINTS = 0.5


class View:
    """What the panels of a figure share.

    Attributes:
      marks: of all rows.
      drawn: those that have an accuracy and do not lie far below all others.
      below: those that do.
      bottom, top: of the accuracy axis, in percent.
      among_fixed: whether a net that was found lies among fixed depths, which are then joined.
      paper: those whose published net is near enough to ours to be drawn without pressing ours.
    """

    def __init__(self, marks: Sequence[Mark]):
        self.marks = marks
        known = [mark for mark in marks if len(mark.accuracies)]
        self.below = _far_below(known)
        self.drawn = [mark for mark in known if mark not in self.below]
        self.among_fixed = len({mark.line.found for mark in known}) == 2
        ends = [end for mark in self.drawn for end in _ends(mark)]
        blocks = [float(sum(r.depths or ())) for mark in self.drawn for r in mark.line.done]
        self.paper = [m for m in self.drawn if _is_near(m.line.published, ends, blocks)]
        ends += [m.line.published.accuracy for m in self.paper if m.line.published]
        low, high = min(ends, default=0.0), max(ends, default=100.0)
        pad = max(0.06 * (high - low), (_MIN_POINTS - (high - low)) / 2)
        self.bottom = low - pad
        self.top = min(high + pad, 100 + 0.03 * (high + pad - self.bottom))


def style_of(mark: Mark) -> dict[str, Any]:
    """Colour and size of a mark, for matplotlib."""
    star = mark.shape == "*"
    return {
        "color": mark.color,
        "markersize": 15 if star else 7,
        "markeredgecolor": "black" if star else "white",
        "markeredgewidth": 0.8,
    }


def draw(panel: Axes, view: View, points_of: Points) -> None:
    """Draws all rows that have points, each at the mean over its seeds."""
    for mark in view.below:
        points = points_of(mark)
        if len(points):
            panel.plot(
                [points[:, 0].mean()],
                [0.02],
                transform=panel.get_xaxis_transform(),
                clip_on=False,
                **(style_of(mark) | {"marker": "v", "markersize": 6}),
            )
    for mark in view.drawn:
        points = points_of(mark)
        if len(points):
            _draw_row(panel, mark, points[:, 0], points[:, 1])


def join(panel: Axes, marks: Sequence[Mark], points_of: Points, color: str = LINE_COLOR) -> None:
    """Draws a line through the means of `marks`, from left to right."""
    means = [points_of(mark).mean(axis=0) for mark in marks if len(points_of(mark))]
    if len(means) > 1:
        x, y = np.array(sorted(means, key=lambda mean: mean[0])).T
        panel.plot(x, y, color=color, linewidth=1.2, zorder=1.5)


def join_fixed(panel: Axes, view: View, points_of: Points) -> None:
    """Joins the rows of fixed depths, where a net that was found lies among them."""
    if view.among_fixed:
        for series in dict.fromkeys(mark.series for mark in view.drawn):
            fixed = [m for m in view.drawn if m.series == series and not m.line.found]
            join(panel, fixed, points_of)


def set_scale(panel: Axes, x: np.ndarray, *, is_flops: bool) -> None:
    """Sets the x-axis: whole numbers of blocks, or FLOPs, logarithmic where they differ much.

    Args:
      panel: whose axis.
      x: what has to be seen.
      is_flops: FLOPs, else blocks.
    """
    low, high = float(x.min()), float(x.max())
    if is_flops and low > 0 and high > WIDE * low:
        set_log(panel, low, high)
    else:
        pad = 0.06 * (high - low) if high - low > 0.05 * high else max(0.2 * high, 1.0)
        panel.set_xlim(low - pad, high + pad)
        panel.xaxis.set_major_locator(MaxNLocator(5 if is_flops else 7, integer=not is_flops))
    if is_flops:
        panel.xaxis.set_major_formatter(EngFormatter(sep=" "))


def set_log(panel: Axes, low: float, high: float) -> None:
    """A logarithmic x-axis with few ticks, from `low` to `high` and a little further."""
    decades = math.log10(high / low)
    panel.set_xscale("log")
    panel.set_xlim(low / 10 ** (0.06 * decades), high * 10 ** (0.06 * decades))
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 1.8 else (1,)))
    panel.xaxis.set_minor_formatter(NullFormatter())


def draw_published(panel: Axes, mark: Mark, x: float) -> None:
    """Draws what the paper has for a row at `x`."""
    published = mark.line.published
    if published:
        # Over our own marks and a little larger: where both agree it is a ring around ours.
        style: dict[str, Any] = {"color": PAPER_COLOR, "markerfacecolor": "none", "zorder": 3.5}
        size = style_of(mark)["markersize"] + 2
        panel.plot([x], [published.accuracy], marker=mark.shape, markersize=size, **style)


def _draw_row(panel: Axes, mark: Mark, x: np.ndarray, y: np.ndarray) -> None:
    if len(x) > 1:
        dots: dict[str, Any] = {
            "linestyle": "none",
            "marker": ".",
            "markersize": 4,
            "alpha": 0.6,
            "zorder": 2,
        }
        panel.plot(x, y, color=mark.color, **dots)
    spread = {"xerr": x.std(ddof=1), "yerr": y.std(ddof=1)} if len(x) > 1 else {}
    panel.errorbar(
        [x.mean()],
        [y.mean()],
        fmt=mark.shape,
        elinewidth=1,
        zorder=4 if mark.line.found else 3,
        **style_of(mark),
        **spread,
    )


def _ends(mark: Mark) -> tuple[float, ...]:
    stat = mark.line.stat("accuracy")
    mean, std = stat.mean or 0.0, stat.std or 0.0
    return (*stat.values, mean - std, mean + std)


def _is_near(published: Published | None, ends: list[float], blocks: list[float]) -> bool:
    if not published:
        return False
    near = _is_within(published.accuracy, ends, _MIN_POINTS)
    return near and (not published.depths or _is_within(sum(published.depths), blocks, 10))


def _is_within(value: float, values: list[float], least: float) -> bool:
    low, high = min(values), max(values)
    room = _PAPER_ROOM * max(high - low, least)
    return low - room <= value <= high + room


def _far_below(marks: Sequence[Mark]) -> list[Mark]:
    ordered = sorted(marks, key=lambda mark: float(mark.accuracies.mean()))
    means = [float(mark.accuracies.mean()) for mark in ordered]
    for count in range(1, len(means) // 4 + 1):
        spread = max(means[-1] - means[count], 0.5)
        if means[count] - means[count - 1] > _FAR_BELOW * spread:
            return ordered[:count]
    return []
