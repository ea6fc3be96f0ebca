"""The figures of a study: accuracy over depth, over FLOPs and over what finding the net cost.

Drawn from the same lines as the tables, without pyplot and its global state.
"""

import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from autogrow_jax.reporting.files import replace_file
from autogrow_jax.reporting.marks import MARK_COLOR
from autogrow_jax.studies import panels as panels_lib
from autogrow_jax.studies.marks import Mark, escape, make_marks, telling_columns
from autogrow_jax.studies.names_panel import draw_names
from autogrow_jax.studies.panels import LINE_COLOR, PAPER_COLOR, View
from autogrow_jax.studies.records import Record, Table

__all__ = ["draw_figures", "figure"]

# In inches: of a panel, and of an entry of the legend.
_WIDTH, _HEIGHT, _ENTRY = 4.3, 4.1, 0.19
# The legend begins a further column after so many entries.
_MAX_ENTRIES = 30


class _Axis(NamedTuple):
    label: str
    value: Callable[[Record], float | None]
    is_flops: bool


_AXES = (
    _Axis("blocks in all stages", lambda record: float(sum(record.depths or ())), False),
    _Axis("FLOPs of the net (forward, one image)", lambda record: record.flops, True),
    _Axis("FLOPs of the training that found it", lambda record: record.training_flops, True),
)


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
    paths = []
    for table, name in zip(tables, _file_names(tables), strict=True):
        drawing = figure(table, title=title)
        for suffix in ("png", "svg"):
            buffer = io.BytesIO()
            metadata: dict[str, Any] = {"Date": None} if suffix == "svg" else {}
            with matplotlib.rc_context({"svg.hashsalt": "autogrow_jax"}):
                drawing.savefig(buffer, format=suffix, metadata=metadata)
            paths.append(folder / "plots" / f"{name}.{suffix}")
            replace_file(paths[-1], buffer.getvalue())
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
    view = View(marks)
    axes = [axis for axis in _AXES if any(len(mark.points(axis.value)) for mark in marks)]
    num_panels = max(1, len(axes) + bool(table.section.x and axes))
    columns = 2 if num_panels == 4 else num_panels
    rows = -(-num_panels // columns)
    height = max(_HEIGHT * rows, _ENTRY * min(len(marks) + 5, _MAX_ENTRIES)) + 0.9
    drawing = Figure(figsize=(_WIDTH * columns + 3.4, height), dpi=150, layout="constrained")
    panels = list(drawing.subplots(rows, columns, sharey=True, squeeze=False).flat)
    if axes:
        panels[0].set_ylim(view.bottom, view.top)
    else:
        panels[0].set(xticks=(), yticks=())
    for panel, axis in zip(panels, axes, strict=False):
        _draw_axis(panel, view, axis)
    if num_panels > len(axes) > 0:
        draw_names(panels[len(axes)], view, table)
    for number, panel in enumerate(panels):
        _set_style(panel, labelled=number % columns == 0)
    panels[0].set_title(_summary(table, title), loc="left", fontsize=9.5, color=MARK_COLOR, pad=10)
    drawing.suptitle(escape(table.section.title), x=0.01, ha="left", fontsize=15)
    _draw_legend(drawing, view, table)
    return drawing


def _draw_axis(panel: Axes, view: View, axis: _Axis) -> None:
    def points_of(mark: Mark) -> np.ndarray:
        return mark.points(axis.value)

    panels_lib.join_fixed(panel, view, points_of)
    panels_lib.draw(panel, view, points_of)
    x = [points_of(mark)[:, 0] for mark in (*view.drawn, *view.below)]
    if not axis.is_flops:
        paper = [(mark, mark.line.published.depths) for mark in view.paper if mark.line.published]
        x.append(np.array([sum(depths) for _, depths in paper if depths]))
        for mark, depths in paper:
            if depths:
                panels_lib.draw_published(panel, mark, sum(depths))
    panels_lib.set_scale(panel, np.concatenate(x), is_flops=axis.is_flops)
    panel.set_xlabel(axis.label)


def _set_style(panel: Axes, *, labelled: bool) -> None:
    if labelled:
        panel.set_ylabel("accuracy (%)")
    panel.grid(color="#e6e6e6", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(labelsize=9)


def _draw_legend(drawing: Figure, view: View, table: Table) -> None:
    entries = [(_handle(mark), _label(mark, view)) for mark in view.marks]
    if any(len(mark.accuracies) > 1 for mark in view.marks):
        error: dict[str, Any] = {"color": MARK_COLOR, "linestyle": "none"}
        entries.append((Line2D([], [], marker="|", markersize=11, **error), "standard deviation"))
        entries.append((Line2D([], [], marker=".", markersize=5, **error), "a seed"))
    if view.among_fixed:
        entries.append((Line2D([], [], color=LINE_COLOR), "fixed depths"))
    published = sum(mark.line.published is not None for mark in view.drawn)
    if published:
        hollow: dict[str, Any] = {"marker": "o", "markerfacecolor": "none", "color": PAPER_COLOR}
        outside = published - len(view.paper)
        label = f"the paper's ({outside} of {published} outside)" if outside else "the paper's"
        entries.append((Line2D([], [], linestyle="none", **hollow), label))
    handles, labels = zip(*entries, strict=True)
    drawing.legend(
        handles,
        labels,
        loc="outside right upper",
        ncols=-(-len(entries) // _MAX_ENTRIES),
        frameon=False,
        fontsize=8.5,
        title=escape(" / ".join(table.section.columns[i] for i in telling_columns(table))),
        title_fontsize=8.5,
        alignment="left",
    )


def _handle(mark: Mark) -> Line2D:
    style = panels_lib.style_of(mark)
    style |= {"marker": mark.shape if len(mark.accuracies) else "None", "linestyle": "none"}
    return Line2D([], [], **(style | {"markersize": 11 if mark.line.found else 7}))


def _label(mark: Mark, view: View) -> str:
    label = mark.label
    if mark.line.found:
        label += " by growth" if label.endswith("found") else ": found by growth"
    if not len(mark.accuracies):
        state = "failed" if mark.line.failed else "not run yet"
        return f"{label}: {state}"
    if mark in view.below:
        return f"{label}: {mark.accuracies.mean():.2f}, below the panels"
    return label


def _summary(table: Table, title: str) -> str:
    """What is drawn, in a line: "Interval. Best test accuracy of all epochs; seeds 0, 1, 2"."""
    splits = {record.validation for record in table.records if record.state == "done"}
    if splits == {"test"}:
        what = "best accuracy of all epochs on the test set, which steered growth"
    elif "test" in splits:
        what = "test accuracy, of some runs the best of all epochs"
    else:
        what = "test accuracy with the final weights"
    words = [what if splits else "no run is done yet"]
    words.append(
        ("seed " if len(table.seeds) == 1 else "seeds ") + ", ".join(map(str, table.seeds))
    )
    return escape("; ".join([title, *words] if title else words))


def _file_names(tables: Sequence[Table]) -> list[str]:
    """A name for each table: its title's letters and digits, numbered where two are alike."""
    names: list[str] = []
    for table in tables:
        name = re.sub(r"[^a-z0-9]+", "-", table.section.title.lower()).strip("-") or "section"
        number = 2
        unique = name
        while unique in names:
            unique, number = f"{name}-{number}", number + 1
        names.append(unique)
    return names
