"""The figures of a study: accuracy over depth, over FLOPs and over what finding the net cost.

Drawn from the same lines as the tables, without pyplot and its global state.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from autogrow_jax.reporting.plots import MARK_COLOR, save_figure
from autogrow_jax.studies.marks import (
    MIN_POINTS,
    Mark,
    are_fixed_around_found,
    escape,
    make_marks,
    telling_columns,
)
from autogrow_jax.studies.records import Table

__all__ = ["draw_figures", "figure"]

# What panels are over: numbers of a `Record`.
_AXES = {
    "blocks": "blocks in all stages",
    "flops": "FLOPs of the net (forward, one image)",
    "training_flops": "FLOPs of the training that found it",
}
# In inches: of a panel, and of an entry of the legend.
_WIDTH, _HEIGHT, _ENTRY = 4.3, 4.1, 0.19
# The legend begins a further column after so many entries.
_MAX_ENTRIES = 30
_LINE_COLOR, _PAPER_COLOR = "#b5b5b5", "#8c8c8c"
# An axis whose largest value is so many times its smallest is logarithmic.
_WIDE = 8
# A row in a panel: its [seeds, 2] points, and where the paper's mark stands on the x-axis.
_Place = tuple[Mark, np.ndarray, float | None]


def draw_figures(title: str, tables: Sequence[Table], folder: Path) -> list[Path]:
    """Draws each table into `plots/SECTION.png` (150 dots an inch) and `plots/SECTION.svg`.

    The same records give the same files, byte for byte.

    Args:
      title: of the study.
      tables: its sections.
      folder: where `plots` is, or is made.

    Returns:
      The files written.
    """
    paths: list[Path] = []
    for table in tables:
        drawing = figure(table, title=title)
        name = re.sub(r"[^a-z0-9]+", "-", table.section.title.lower()).strip("-") or "section"
        # Numbered where the letters and digits of two titles are alike.
        names = [name, *(f"{name}-{number}" for number in range(2, len(tables) + 2))]
        pictures = (folder / "plots" / f"{name}.png" for name in names)
        png = next(path for path in pictures if path not in paths)
        paths += save_figure(drawing, png, png.with_suffix(".svg"))
    return paths


def figure(table: Table, *, title: str = "") -> Figure:
    """Draws a table, for notebooks: `display(figure(table))`.

    A mark is the mean over a row's seeds, with standard deviations; the small points around it are
    the seeds. A row that was found among fixed depths is a star. Hollow grey marks are the paper's,
    where they lie near ours.

    Args:
      table: of which some rows, or all, may have no run yet.
      title: of the study.

    Returns:
      A figure of its own, not known to pyplot.
    """
    marks = make_marks(table)
    axes = [name for name in _AXES if any(len(m.points(name)) for m in marks)]
    num_panels = max(1, len(axes) + bool(table.section.x and axes))
    columns = 2 if num_panels == 4 else num_panels
    rows = -(-num_panels // columns)
    height = max(_HEIGHT * rows, _ENTRY * min(len(marks) + 5, _MAX_ENTRIES)) + 0.9
    drawing = Figure(figsize=(_WIDTH * columns + 3.4, height), dpi=150, layout="constrained")
    panels = list(drawing.subplots(rows, columns, sharey=True, squeeze=False).flat)
    for panel in panels:
        panel.grid(color="#e6e6e6", linewidth=0.6)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=9)
    for panel in panels[::columns]:
        panel.set_ylabel("accuracy (%)")
    for panel, name in zip(panels, axes, strict=False):
        _draw_numbers(panel, marks, name)
    if num_panels > len(axes) > 0:
        _draw_names(panels[len(axes)], marks, table)
    if axes:
        low, high = panels[0].get_ylim()
        more = max(0.0, (MIN_POINTS - (high - low)) / 2)
        panels[0].set_ylim(low - more, min(high + more, 100 + 0.03 * (high - low + 2 * more)))
    else:
        panels[0].set(xticks=(), yticks=())
    panels[0].set_title(_summary(table, title), loc="left", fontsize=9.5, color=MARK_COLOR, pad=10)
    drawing.suptitle(escape(table.section.title), x=0.01, ha="left", fontsize=15)
    handles = _legend(marks)
    drawing.legend(
        handles=handles,
        loc="outside right upper",
        ncols=-(-len(handles) // _MAX_ENTRIES),
        frameon=False,
        fontsize=8.5,
        title=escape(" / ".join(table.section.columns[i] for i in telling_columns(table))),
        title_fontsize=8.5,
        alignment="left",
    )
    return drawing


# --- Panels.


def _draw_numbers(panel: Axes, marks: Sequence[Mark], name: str) -> None:
    """Accuracy over a number of each record: whole numbers of blocks, or FLOPs."""
    places: list[_Place] = []
    for mark in marks:
        has_place = name == "blocks" and mark.paper and mark.paper.depths
        paper_at = sum(mark.paper.depths) if mark.paper and has_place else None
        places.append((mark, mark.points(name), paper_at))
    if are_fixed_around_found(marks):
        _draw_lines(panel, [place for place in places if not place[0].line.found])
    _draw_marks(panel, places)
    panel.set_xlabel(_AXES[name])
    if name == "blocks":
        panel.xaxis.set_major_locator(ticker.MaxNLocator(7, integer=True))
        return
    if not _set_log(panel, np.concatenate([points[:, 0] for _, points, _ in places])):
        panel.xaxis.set_major_locator(ticker.MaxNLocator(5))
    panel.xaxis.set_major_formatter(ticker.EngFormatter(sep=" "))


def _draw_names(panel: Axes, marks: Sequence[Mark], table: Table) -> None:
    """Accuracy over the names of the column `Section.x`.

    Numbers make an axis, and a name that is none a dashed line across it; where fewer than two
    names are numbers, the names stand side by side.
    """
    column = table.section.columns.index(table.section.x)
    names = list(dict.fromkeys(mark.line.names[column] for mark in marks))
    at = {name: number for name in names if (number := _number(name)) is not None}
    is_axis = len(set(at.values())) > 1
    if not is_axis:
        at = {name: float(i) for i, name in enumerate(names)}
    series = list(dict.fromkeys(mark.series for mark in marks))
    places: list[_Place] = []
    for mark in marks:
        x = at.get(mark.line.names[column])
        if x is not None and not is_axis:
            # Side by side where marks of several series would cover each other.
            x += (series.index(mark.series) - (len(series) - 1) / 2) * 0.5 / len(series)
        places.append((mark, mark.points(x), x))
        if x is None and mark.mean is not None and not mark.is_below:
            std = mark.line.stat("accuracy").std or 0.0
            panel.axhline(mark.mean, color=mark.color, ls="--", lw=1.3, zorder=1.4)
            panel.axhspan(mark.mean - std, mark.mean + std, color=mark.color, alpha=0.1, lw=0)
    _draw_marks(panel, places)
    panel.set_xlabel(escape(table.section.x))
    if is_axis:
        _draw_lines(panel, places)
        _set_log(panel, np.array(list(at.values())))
    panel.set_xticks(list(at.values()), [escape(name) for name in at])
    panel.xaxis.set_minor_locator(ticker.NullLocator())
    if not is_axis and sum(map(len, at)) > 36:
        panel.tick_params(axis="x", rotation=35)


def _draw_marks(panel: Axes, places: Sequence[_Place]) -> None:
    for mark, points, paper_at in places:
        if not len(points):
            continue
        x, y = points.T
        if mark.is_below:
            edge: dict[str, Any] = {"transform": panel.get_xaxis_transform(), "clip_on": False}
            panel.plot([x.mean()], [0.02], "v", **mark.style | edge | {"ms": 6})
            continue
        spread = {}
        if len(x) > 1:
            panel.plot(x, y, ".", color=mark.color, ms=4, alpha=0.6, zorder=2)
            spread = {"xerr": x.std(ddof=1), "yerr": y.std(ddof=1), "elinewidth": 1}
        order = 4 if mark.line.found else 3
        panel.errorbar([x.mean()], [y.mean()], fmt=mark.shape, zorder=order, **mark.style, **spread)
        if mark.paper and paper_at is not None:
            # Over our own marks and a little larger: where both agree it is a ring around ours.
            hollow = {"color": _PAPER_COLOR, "mfc": "none", "ms": mark.style["ms"] + 2}
            panel.plot([paper_at], [mark.paper.accuracy], mark.shape, zorder=3.5, **hollow)


def _draw_lines(panel: Axes, places: Sequence[_Place]) -> None:
    """Joins the means of each series, from left to right; in its colour where there are several."""
    several = len({mark.series for mark, _, _ in places}) > 1
    for series in dict.fromkeys(mark.series for mark, _, _ in places):
        drawn = [(m, p) for m, p, _ in places if len(p) and not m.is_below and m.series == series]
        means = sorted(points.mean(axis=0).tolist() for _, points in drawn)
        if len(means) > 1:
            color = drawn[-1][0].color if several else _LINE_COLOR
            panel.plot(*np.array(means).T, color=color, lw=1.2, zorder=1.5)


def _set_log(panel: Axes, x: np.ndarray) -> bool:
    """Makes the x-axis logarithmic where numbers lie far apart; returns whether it is."""
    if not x.max() > _WIDE * x.min() > 0:
        return False
    panel.set_xscale("log")
    subs = (1, 2, 5) if x.max() < 60 * x.min() else (1,)
    panel.xaxis.set_major_locator(ticker.LogLocator(subs=subs))
    panel.xaxis.set_minor_formatter(ticker.NullFormatter())
    return True


def _number(name: str) -> float | None:
    """Of a name such as "3", "0.5" or "75 %"; None of any other."""
    try:
        number = float(name.strip().removesuffix("%"))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


# --- Words.


def _legend(marks: Sequence[Mark]) -> list[Line2D]:
    handles = []
    for mark in marks:
        label = mark.label
        if mark.line.found:
            label += " by growth" if label.endswith("found") else ": found by growth"
        if mark.mean is None:
            label += ": failed" if mark.line.failed else ": not run yet"
        elif mark.is_below:
            label += f": {mark.mean:.2f}, below the panels"
        style = mark.style | {"ms": 11 if mark.line.found else 7, "ls": "none"}
        marker = "None" if mark.mean is None else mark.shape
        handles.append(Line2D([], [], marker=marker, label=label, **style))
    grey: dict[str, Any] = {"color": MARK_COLOR, "ls": "none"}
    if any(len(mark.line.stat("accuracy").values) > 1 for mark in marks):
        handles.append(Line2D([], [], marker="|", ms=11, label="standard deviation", **grey))
        handles.append(Line2D([], [], marker=".", ms=5, label="a seed", **grey))
    if are_fixed_around_found(marks):
        handles.append(Line2D([], [], color=_LINE_COLOR, label="fixed depths"))
    drawn = [mark for mark in marks if mark.mean is not None and not mark.is_below]
    published = sum(mark.line.published is not None for mark in drawn)
    if published:
        outside = published - sum(mark.paper is not None for mark in drawn)
        label = f"the paper's ({outside} of {published} outside)" if outside else "the paper's"
        hollow: dict[str, Any] = {"marker": "o", "ls": "none", "mfc": "none", "color": _PAPER_COLOR}
        handles.append(Line2D([], [], label=label, **hollow))
    return handles


def _summary(table: Table, title: str) -> str:
    """What is drawn, in a line: "Interval; test accuracy with the final weights; seeds 0, 1"."""
    splits = {record.validation for record in table.records if record.state == "done"}
    if not splits:
        what = "no run is done yet"
    elif splits == {"test"}:
        what = "best accuracy of all epochs on the test set, which steered growth"
    elif "test" in splits:
        what = "test accuracy, of some runs the best of all epochs"
    else:
        what = "test accuracy with the final weights"
    seeds = f"seed{'s' * (len(table.seeds) != 1)} {', '.join(map(str, table.seeds))}"
    return escape("; ".join([title, what, seeds] if title else [what, seeds]))
