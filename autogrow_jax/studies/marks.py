"""What each row of a study looks like in its figures, and what of the rows fits into them."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.colors import to_hex

from autogrow_jax.reporting.drawing import PALETTE, escape
from autogrow_jax.studies import Published
from autogrow_jax.studies.records import Line, Table

_SHAPES = ("o", "s", "^", "D", "v", "P", "X", "p")
# Of rows in an order, from light to dark: alone, or beside other such series.
_ALONE, _MAPS = "viridis_r", ("Blues", "Oranges", "Greens", "Purples", "Reds", "Greys")
# The least spread of accuracies that counts as one, in points.
MIN_POINTS = 0.5
# Rows so many times the spread of all others under them are left below the panels; a quarter of
# all rows at most.
_FAR_BELOW = 3
# The paper's marks may widen an axis by this part of it at either end.
_PAPER_ROOM = 0.35


class Mark(NamedTuple):
    """A row in a figure."""

    line: Line
    label: str  # Those of its names that tell it from the others.
    series: str  # Rows of one series are joined where there is something to join.
    color: str
    shape: str  # "*" for a net that was found among fixed depths.
    mean: float | None
    is_drawn: bool  # It has a mean, which is not so far below all others that it is left out.
    paper: Published | None  # Where that lies near enough to our marks to be drawn.

    def points(self, x: str | float | None) -> np.ndarray:
        """Gives `x`, or a number of each seed's record, and accuracy in percent [seeds, 2]."""
        records = self.line.records
        pairs = [(getattr(r, x) if isinstance(x, str) else x, r.accuracy) for r in records]
        known = [pair for pair in pairs if None not in pair]
        return np.array(known, dtype=np.float64).reshape(-1, 2)

    @property
    def style(self) -> dict[str, Any]:
        size, edge = (15, "black") if self.shape == "*" else (7, "white")
        return {"color": self.color, "ms": size, "mec": edge, "mew": 0.8}


def make_marks(table: Table) -> list[Mark]:
    lines, told, x = table.lines, telling_columns(table), table.section.x
    rest = [i for i in told if table.section.columns[i] != x] if x else told[:-1]
    series = [join(line.row.names, rest) for line in lines]
    if x or any(line.row.found for line in lines):
        styles = _in_order(lines, series)
    else:
        styles = _apart(series, [line.row.names[told[-1]] for line in lines])
    means = [line.stat("accuracy").mean for line in lines]
    least = _least_drawn([mean for mean in means if mean is not None])
    drawn = [mean is not None and mean >= least for mean in means]
    accuracies, blocks = (
        [value for i, line in enumerate(lines) if drawn[i] for value in line.stat(name).values]
        for name in ("accuracy", "blocks")
    )
    marks = []
    for i, line in enumerate(lines):
        label, paper = escape(join(line.row.names, told)), line.row.published
        if paper and not (
            drawn[i]
            and _is_near(paper.accuracy, accuracies, MIN_POINTS)
            and (not paper.depths or _is_near(sum(paper.depths), blocks, 10))
        ):
            paper = None
        marks.append(Mark(line, label, series[i], *styles[i], means[i], drawn[i], paper))
    return marks


def telling_columns(table: Table) -> list[int]:
    """Finds as few of the first columns as tell the rows apart; none that never changes."""
    names = [line.row.names for line in table.lines]
    told: list[int] = []
    for i, column in enumerate(table.section.columns):
        apart = len({join(each, told) for each in names}) == len(names)
        varies = len({each[i] for each in names}) > 1
        if varies and (not apart or column == table.section.x):
            told.append(i)
    return told or [0]


def join(names: Sequence[str], columns: Iterable[int]) -> str:
    return " / ".join(names[i] for i in columns)


def _in_order(lines: Sequence[Line], series: Sequence[str]) -> list[tuple[str, str]]:
    """Colour and shape of rows in an order: from light to dark, a shape for each series."""
    groups, styles = list(dict.fromkeys(series)), {}
    for number, group in enumerate(groups):
        rows = [i for i, line in enumerate(lines) if series[i] == group and not line.row.found]
        colors = matplotlib.colormaps[_ALONE if len(groups) == 1 else _MAPS[number % len(_MAPS)]]
        for i, color in zip(rows, colors(np.linspace(0.3, 1, len(rows))), strict=True):
            styles[i] = to_hex(color), _SHAPES[number % len(_SHAPES)]
    found = [i for i, line in enumerate(lines) if line.row.found]
    styles |= {i: (PALETTE[number % len(PALETTE)], "*") for number, i in enumerate(found, 1)}
    return [styles[i] for i in range(len(lines))]


def _apart(series: Sequence[str], variants: Sequence[str]) -> list[tuple[str, str]]:
    """Colour and shape of rows in no order: a colour for a series, a shape for a variant."""
    groups, kinds = list(dict.fromkeys(series)), list(dict.fromkeys(variants))
    pairs = [(groups.index(s), kinds.index(v)) for s, v in zip(series, variants, strict=True)]
    if len(groups) == 1 or len(groups) > len(PALETTE) or len(kinds) > len(_SHAPES):
        pairs = [(i, i // len(PALETTE)) for i in range(len(series))]
    return [(PALETTE[i % len(PALETTE)], _SHAPES[j % len(_SHAPES)]) for i, j in pairs]


def _least_drawn(means: Sequence[float]) -> float:
    """The mean below which rows lie far below all others."""
    ordered = sorted(means)
    for count in range(1, len(ordered) // 4 + 1):
        spread = max(ordered[-1] - ordered[count], MIN_POINTS)
        if ordered[count] - ordered[count - 1] > _FAR_BELOW * spread:
            return ordered[count]
    return -math.inf


def _is_near(value: float, values: Sequence[float], least: float) -> bool:
    room = _PAPER_ROOM * max(max(values) - min(values), least)
    return min(values) - room <= value <= max(values) + room
