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

from autogrow_jax.reporting.drawing import MARK_COLOR, escape, save_figure, style_panel
from autogrow_jax.studies.marks import MIN_POINTS, Mark, join, make_marks, telling_columns
from autogrow_jax.studies.records import Table

# What panels are over: numbers of a `Record`.
_NUMBERS = {
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


def draw_figures(title: str, tables: Sequence[Table], folder: Path) -> list[Path]:
    """Draws each table of a study into `plots/SECTION.png` (150 dots an inch) and `.svg`.

    The same records give the same files, byte for byte. Returns the files written.
    """
    paths: list[Path] = []
    for table in tables:
        name = re.sub(r"[^a-z0-9]+", "-", table.section.title.lower()).strip("-") or "section"
        # Numbered where the letters and digits of two titles are alike.
        stem, number = folder / "plots" / name, 2
        while stem.with_suffix(".png") in paths:
            stem, number = stem.with_name(f"{name}-{number}"), number + 1
        files = (stem.with_suffix(suffix) for suffix in (".png", ".svg"))
        paths += save_figure(figure(table, title=title), *files)
    return paths


def figure(table: Table, *, title: str = "") -> Figure:
    """Draws a table, for notebooks: `display(figure(table))`.

    A mark is the mean over a row's seeds, with standard deviations; the small points around it are
    the seeds. A row that was found among fixed depths is a star. Hollow grey marks are the paper's,
    where they lie near ours. Rows may have no run yet; `title` is the study's. The figure is its
    own, not known to pyplot.
    """
    marks, x = make_marks(table), table.section.x
    names = [name for name in _NUMBERS if any(len(mark.points(name)) for mark in marks)]
    num_panels = max(1, len(names) + bool(x and names))
    columns = 2 if num_panels == 4 else num_panels
    rows = -(-num_panels // columns)
    height = max(_HEIGHT * rows, _ENTRY * min(len(marks) + 5, _MAX_ENTRIES)) + 0.9
    drawing = Figure(figsize=(_WIDTH * columns + 3.4, height), dpi=150, layout="constrained")
    panels = list(drawing.subplots(rows, columns, sharey=True, squeeze=False).flat)
    for number, panel in enumerate(panels):
        style_panel(panel, "both")
        panel.set_ylabel("" if number % columns else "accuracy (%)")
    for panel, name in zip(panels, names, strict=False):
        _draw_numbers(panel, marks, name)
    if num_panels > len(names) > 0:
        _draw_names(panels[-1], marks, x, table.section.columns.index(x))
    if names:
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
        title=escape(join(table.section.columns, telling_columns(table))),
        title_fontsize=8.5,
        alignment="left",
    )
    return drawing


# --- Panels.


def _draw_numbers(panel: Axes, marks: Sequence[Mark], name: str) -> None:
    """Accuracy over a number of each record: whole numbers of blocks, or FLOPs."""
    papers = [sum(m.paper.depths) if m.paper and name == "blocks" else 0 for m in marks]
    places = [name] * len(marks), [blocks or None for blocks in papers]
    _draw(panel, marks, *places, joined=_are_fixed_around_found(marks))
    panel.set_xlabel(_NUMBERS[name])
    if name == "blocks":
        panel.xaxis.set_major_locator(ticker.MaxNLocator(7, integer=True))
        return
    if not _set_log(panel, np.concatenate([mark.points(name)[:, 0] for mark in marks])):
        panel.xaxis.set_major_locator(ticker.MaxNLocator(5))
    panel.xaxis.set_major_formatter(ticker.EngFormatter(sep=" "))


def _draw_names(panel: Axes, marks: Sequence[Mark], title: str, column: int) -> None:
    """Accuracy over the names of a column.

    Numbers make an axis, and a name that is none a dashed line across it; where fewer than two
    names are numbers, the names stand side by side, and so do the series over each.
    """
    names = [mark.line.row.names[column] for mark in marks]
    at = {name: number for name in names if math.isfinite(number := _number(name))}
    is_axis = len(set(at.values())) > 1
    if is_axis:
        xs = [at.get(name) for name in names]
    else:
        at = {name: float(i) for i, name in enumerate(dict.fromkeys(names))}
        series = list(dict.fromkeys(mark.series for mark in marks))
        beside = [0.5 * ((i + 0.5) / len(series) - 0.5) for i in range(len(series))]
        xs = [at[n] + beside[series.index(m.series)] for n, m in zip(names, marks, strict=True)]
    _draw(panel, marks, xs, xs, joined=is_axis)
    for mark, x in zip(marks, xs, strict=True):
        if x is None and mark.is_drawn and mark.mean is not None:
            std = mark.line.stat("accuracy").std or 0.0
            panel.axhline(mark.mean, color=mark.color, ls="--", lw=1.3, zorder=1.4)
            panel.axhspan(mark.mean - std, mark.mean + std, color=mark.color, alpha=0.1, lw=0)
    if is_axis:
        _set_log(panel, np.array(list(at.values())))
    elif sum(map(len, at)) > 36:
        panel.tick_params(axis="x", rotation=35)
    panel.set_xlabel(escape(title))
    panel.set_xticks(list(at.values()), [escape(name) for name in at])
    panel.xaxis.set_minor_locator(ticker.NullLocator())


def _draw(
    panel: Axes,
    marks: Sequence[Mark],
    xs: Sequence[str | float | None],
    paper_xs: Sequence[float | None],
    joined: bool,
) -> None:
    """Draws rows at `xs`, see `Mark.points`, and what the paper has at `paper_xs`.

    Where they are `joined`, a line goes through the means of each series from left to right, but
    not through a net that was found; it has the series' colour where there are several.
    """
    lines: dict[str, list[tuple[float, float]]] = {}
    for mark, place, paper_x in zip(marks, xs, paper_xs, strict=True):
        x, y = mark.points(place).T
        if not len(x):
            continue
        if not mark.is_drawn:
            edge: dict[str, Any] = {"transform": panel.get_xaxis_transform(), "clip_on": False}
            panel.plot([x.mean()], [0.02], "v", **mark.style | edge | {"ms": 6})
            continue
        spread = {}
        if len(x) > 1:
            panel.plot(x, y, ".", color=mark.color, ms=4, alpha=0.6, zorder=2)
            spread = {"xerr": x.std(ddof=1), "yerr": y.std(ddof=1), "elinewidth": 1}
        order = 4 if mark.line.row.found else 3
        panel.errorbar([x.mean()], [y.mean()], fmt=mark.shape, zorder=order, **mark.style, **spread)
        if not mark.line.row.found:
            lines.setdefault(mark.series, []).append((x.mean(), y.mean()))
        if mark.paper and paper_x is not None:
            # Over our own marks and a little larger: where both agree it is a ring around ours.
            hollow = {"color": _PAPER_COLOR, "mfc": "none", "ms": mark.style["ms"] + 2}
            panel.plot([paper_x], [mark.paper.accuracy], mark.shape, zorder=3.5, **hollow)
    colors = {m.series: m.color for m in marks if m.is_drawn and not m.line.row.found}
    for series, means in lines.items() if joined else ():
        if len(means) > 1:
            color = colors[series] if len(lines) > 1 else _LINE_COLOR
            panel.plot(*np.array(sorted(means)).T, color=color, lw=1.2, zorder=1.5)


def _set_log(panel: Axes, x: np.ndarray) -> bool:
    """Makes the x-axis logarithmic where numbers lie far apart; returns whether it is."""
    if not x.max() > _WIDE * x.min() > 0:
        return False
    panel.set_xscale("log")
    subs = (1, 2, 5) if x.max() < 60 * x.min() else (1,)
    panel.xaxis.set_major_locator(ticker.LogLocator(subs=subs))
    panel.xaxis.set_minor_formatter(ticker.NullFormatter())
    return True


def _number(name: str) -> float:
    """Of a name such as "3", "0.5" or "75 %"; NaN of any other."""
    try:
        return float(name.strip().removesuffix("%"))
    except ValueError:
        return math.nan


def _are_fixed_around_found(marks: Sequence[Mark]) -> bool:
    return len({mark.line.row.found for mark in marks if mark.mean is not None}) == 2


# --- Words.


def _legend(marks: Sequence[Mark]) -> list[Line2D]:
    handles: list[Line2D] = []

    def add(label: str, **style: Any) -> None:
        handles.append(Line2D([], [], label=label, **{"ls": "none", **style}))

    for mark in marks:
        label, found = mark.label, mark.line.row.found
        if found:
            label += " by growth" if label.endswith("found") else ": found by growth"
        if mark.mean is None:
            label += ": failed" if mark.line.failed else ": not run yet"
        elif not mark.is_drawn:
            label += f": {mark.mean:.2f}, below the panels"
        shape = "None" if mark.mean is None else mark.shape
        add(label, marker=shape, **mark.style | {"ms": 11 if found else 7})
    if any(len(mark.line.stat("accuracy").values) > 1 for mark in marks):
        add("standard deviation", marker="|", ms=11, color=MARK_COLOR)
        add("a seed", marker=".", ms=5, color=MARK_COLOR)
    if _are_fixed_around_found(marks):
        add("fixed depths", ls="-", color=_LINE_COLOR)
    papers = [mark.paper for mark in marks if mark.is_drawn and mark.line.row.published]
    if papers:
        outside = f" ({papers.count(None)} of {len(papers)} outside)" if None in papers else ""
        add(f"the paper's{outside}", marker="o", mfc="none", color=_PAPER_COLOR)
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
    return escape("; ".join(filter(None, [title, what, seeds])))
