"""What each row of a study looks like in its figures, and what of the rows fits into them."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import to_hex

from autogrow_jax.reporting.plots import PALETTE
from autogrow_jax.studies import Published
from autogrow_jax.studies.records import Line, Table

_SHAPES = ("o", "s", "^", "D", "v", "P", "X", "p")
# Rows so many times the spread of all others under them are left below the panels; a quarter of
# all rows at most.
_FAR_BELOW = 3
# The paper's marks may widen an axis by this part of it at either end.
_PAPER_ROOM = 0.35
# The least that the accuracy axis spans, in percentage points.
MIN_POINTS = 0.5
# Of rows in an order, from light to dark: alone, or beside other such series.
_ALONE, _MAPS = "viridis_r", ("Blues", "Oranges", "Greens", "Purples", "Reds", "Greys")


@dataclasses.dataclass
class Mark:
    """A row in a figure.

    Attributes:
      line: of the table.
      label: those of its names that tell it from the others.
      series: rows of one series are joined where there is something to join.
      color: as "#rrggbb".
      shape: a marker of matplotlib; "*" for a net that was found among fixed depths.
      is_below: whether its accuracy lies so far below all others that it is not in the panels.
      paper: what the paper has, where that lies near enough to our marks to be drawn.
    """

    line: Line
    label: str
    series: str
    color: str
    shape: str
    is_below: bool = False
    paper: Published | None = None

    def points(self, x: str | float | None) -> np.ndarray:
        """Gives `x`, or a number of each seed's record, and accuracy in percent [seeds, 2]."""
        pairs = [
            (getattr(record, x) if isinstance(x, str) else x, record.accuracy)
            for record in self.line.done
        ]
        known = [pair for pair in pairs if None not in pair]
        return np.array(known, dtype=np.float64).reshape(-1, 2)

    @property
    def mean(self) -> float | None:
        return self.line.stat("accuracy").mean

    @property
    def style(self) -> dict[str, Any]:
        edge = "black" if self.shape == "*" else "white"
        size = 15 if self.shape == "*" else 7
        return {"color": self.color, "ms": size, "mec": edge, "mew": 0.8}


def make_marks(table: Table) -> list[Mark]:
    lines, section, told = table.lines, table.section, telling_columns(table)
    # Rows in an order, along `Section.x` or of fixed depths around a net that was found.
    is_ordered = bool(section.x) or any(line.found for line in lines)
    if section.x:
        series = [
            _join(line, [i for i in told if section.columns[i] != section.x]) for line in lines
        ]
    elif is_ordered:
        settings = [line.records[0].cell.settings for line in lines]
        series = [f"{each['model']['family']} {each['data']['name']}" for each in settings]
    else:
        series = [_join(line, told[:-1]) for line in lines]
    variants = [line.names[told[-1]] for line in lines]
    styles = _in_order(lines, series) if is_ordered else _apart(series, variants)
    marks = [
        Mark(line, escape(_join(line, told)), group, *style)
        for line, group, style in zip(lines, series, styles, strict=True)
    ]
    for mark in _far_below([mark for mark in marks if mark.mean is not None]):
        mark.is_below = True
    ours = [m.line for m in marks if m.mean is not None and not m.is_below]
    accuracies = [value for line in ours for value in line.stat("accuracy").values]
    blocks = [value for line in ours for value in line.stat("blocks").values]
    for mark in marks:
        paper = mark.line.published
        if paper and mark.line in ours and _is_near(paper.accuracy, accuracies, MIN_POINTS):
            is_drawn = not paper.depths or _is_near(sum(paper.depths), blocks, 10)
            mark.paper = paper if is_drawn else None
    return marks


def telling_columns(table: Table) -> list[int]:
    """Finds as few of the first columns as tell the rows apart; none that never changes."""
    section, lines = table.section, table.lines
    told: list[int] = []
    for i, name in enumerate(section.columns):
        apart = len({_join(line, told) for line in lines}) == len(lines)
        varies = len({line.names[i] for line in lines}) > 1
        if varies and (not apart or name == section.x):
            told.append(i)
    return told or [0]


def _join(line: Line, columns: Iterable[int]) -> str:
    return " / ".join(line.names[i] for i in columns)


def _in_order(lines: Sequence[Line], series: Sequence[str]) -> list[tuple[str, str]]:
    """Colour and shape of rows in an order: from light to dark, a shape for each series."""
    groups, kinds = list(dict.fromkeys(series)), list(zip(series, lines, strict=True))
    styles = []
    for i, (group, line) in enumerate(kinds):
        if line.found:
            number = sum(other.found for other in lines[:i])
            styles.append((PALETTE[(number + 1) % len(PALETTE)], "*"))
            continue
        others = [j for j, (name, other) in enumerate(kinds) if name == group and not other.found]
        share = others.index(i) / max(1, len(others) - 1)
        number = groups.index(group)
        name = _ALONE if len(groups) == 1 else _MAPS[number % len(_MAPS)]
        color = to_hex(matplotlib.colormaps[name](0.3 + 0.7 * share))
        styles.append((color, _SHAPES[number % len(_SHAPES)]))
    return styles


def _apart(series: Sequence[str], variants: Sequence[str]) -> list[tuple[str, str]]:
    """Colour and shape of rows in no order: a colour for a series, a shape for a variant."""
    groups, kinds = list(dict.fromkeys(series)), list(dict.fromkeys(variants))
    pairs = [(groups.index(s), kinds.index(v)) for s, v in zip(series, variants, strict=True)]
    if len(groups) == 1 or len(groups) > len(PALETTE) or len(kinds) > len(_SHAPES):
        pairs = [(i, i // len(PALETTE)) for i in range(len(series))]
    return [(PALETTE[i % len(PALETTE)], _SHAPES[j % len(_SHAPES)]) for i, j in pairs]


def _is_near(value: float, values: Sequence[float], least: float) -> bool:
    room = _PAPER_ROOM * max(max(values) - min(values), least)
    return min(values) - room <= value <= max(values) + room


def _far_below(marks: Sequence[Mark]) -> list[Mark]:
    ordered = sorted(marks, key=lambda mark: mark.mean or 0.0)
    means = [mark.mean or 0.0 for mark in ordered]
    for count in range(1, len(means) // 4 + 1):
        spread = max(means[-1] - means[count], 0.5)
        if means[count] - means[count - 1] > _FAR_BELOW * spread:
            return ordered[:count]
    return []


def are_fixed_around_found(marks: Sequence[Mark]) -> bool:
    return len({mark.line.found for mark in marks if mark.mean is not None}) == 2


def escape(text: str) -> str:
    """Text for a figure: a dollar begins no formula, a first underscore hides no legend entry."""
    return (" " + text if text.startswith("_") else text).replace("$", r"\$")
