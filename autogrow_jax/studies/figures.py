"""The figures of a study: accuracy over depth, over FLOPs and over what finding the net cost.

Drawn from the same lines as the tables, without pyplot and its global state.
"""

import io
import re
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from autogrow_jax.reporting import replace_file
from autogrow_jax.reporting.marks import MARK_COLOR
from autogrow_jax.studies.marks import Mark, View, escape, telling_columns
from autogrow_jax.studies.panels import (
    AXES,
    LINE_COLOR,
    PAPER_COLOR,
    draw_names,
    draw_numbers,
    style_of,
)
from autogrow_jax.studies.records import Table

__all__ = ["draw_figures", "figure"]

# In inches: of a panel, and of an entry of the legend.
_WIDTH, _HEIGHT, _ENTRY = 4.3, 4.1, 0.19
# The legend begins a further column after so many entries.
_MAX_ENTRIES = 30


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
    view = View(table)
    axes = [name for name in AXES if any(len(m.points(attrgetter(name))) for m in view.marks)]
    num_panels = max(1, len(axes) + bool(table.section.x and axes))
    columns = 2 if num_panels == 4 else num_panels
    rows = -(-num_panels // columns)
    height = max(_HEIGHT * rows, _ENTRY * min(len(view.marks) + 5, _MAX_ENTRIES)) + 0.9
    drawing = Figure(figsize=(_WIDTH * columns + 3.4, height), dpi=150, layout="constrained")
    panels = list(drawing.subplots(rows, columns, sharey=True, squeeze=False).flat)
    if axes:
        panels[0].set_ylim(view.bottom, view.top)
    else:
        panels[0].set(xticks=(), yticks=())
    for panel, name in zip(panels, axes, strict=False):
        draw_numbers(panel, view, name)
    if num_panels > len(axes) > 0:
        draw_names(panels[len(axes)], view, table)
    for number, panel in enumerate(panels):
        if number % columns == 0:
            panel.set_ylabel("accuracy (%)")
        panel.grid(color="#e6e6e6", linewidth=0.6)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=9)
    panels[0].set_title(_summary(table, title), loc="left", fontsize=9.5, color=MARK_COLOR, pad=10)
    drawing.suptitle(escape(table.section.title), x=0.01, ha="left", fontsize=15)
    _draw_legend(drawing, view, table)
    return drawing


def _draw_legend(drawing: Figure, view: View, table: Table) -> None:
    handles = [_handle(mark, view) for mark in view.marks]
    grey: dict[str, Any] = {"color": MARK_COLOR, "linestyle": "none"}
    if any(len(mark.accuracies) > 1 for mark in view.marks):
        handles.append(Line2D([], [], marker="|", ms=11, label="standard deviation", **grey))
        handles.append(Line2D([], [], marker=".", ms=5, label="a seed", **grey))
    if view.among_fixed:
        handles.append(Line2D([], [], color=LINE_COLOR, label="fixed depths"))
    published = sum(mark.line.published is not None for mark in view.drawn)
    if published:
        outside = published - len(view.paper)
        label = f"the paper's ({outside} of {published} outside)" if outside else "the paper's"
        hollow: dict[str, Any] = {"markerfacecolor": "none", "color": PAPER_COLOR}
        handles.append(Line2D([], [], linestyle="none", marker="o", label=label, **hollow))
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


def _handle(mark: Mark, view: View) -> Line2D:
    label = mark.label
    if mark.line.found:
        label += " by growth" if label.endswith("found") else ": found by growth"
    if not mark.accuracies:
        label += ": failed" if mark.line.failed else ": not run yet"
    elif mark in view.below:
        label += f": {mark.mean:.2f}, below the panels"
    style = style_of(mark) | {"markersize": 11 if mark.line.found else 7, "linestyle": "none"}
    return Line2D([], [], marker=mark.shape if mark.accuracies else "None", label=label, **style)


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


def _file_names(tables: Sequence[Table]) -> list[str]:
    """A name for each table: its title's letters and digits, numbered where two are alike."""
    names: list[str] = []
    for table in tables:
        name = re.sub(r"[^a-z0-9]+", "-", table.section.title.lower()).strip("-") or "section"
        numbered = (f"{name}-{number}" for number in range(2, len(tables) + 2))
        names.append(name if name not in names else next(n for n in numbered if n not in names))
    return names
