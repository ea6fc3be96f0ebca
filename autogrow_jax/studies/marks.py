"""What each row of a study looks like in its figures: a colour, a shape, a label."""

import dataclasses
from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
from matplotlib.colors import to_hex

from autogrow_jax.reporting.marks import stage_color
from autogrow_jax.studies.records import Line, Record, Table

__all__ = ["Mark", "escape", "make_marks", "telling_columns"]

# Of the palette of Okabe and Ito, as the stages of a run; then its remaining ones.
_COLORS = (*(stage_color(i) for i in range(5)), "#e69f00", "#000000")
_SHAPES = ("o", "s", "^", "D", "v", "P", "X", "p")
# Of rows in an order, from light to dark: alone, or beside other such series.
_ALONE, _MAPS = "viridis_r", ("Blues", "Oranges", "Greens", "Purples", "Reds", "Greys")
_STAR_COLORS = ("#d55e00", "#cc79a7", "#e69f00", "#56b4e9")


@dataclasses.dataclass(frozen=True)
class Mark:
    """A row in a figure.

    Attributes:
      line: of the table.
      label: those of its names that tell it from the others.
      series: rows of one series are joined where there is something to join.
      color: as "#rrggbb".
      shape: a marker of matplotlib; "*" for a net that was found among fixed depths.
    """

    line: Line
    label: str
    series: str
    color: str
    shape: str

    def points(self, value: Callable[[Record], float | None]) -> np.ndarray:
        """Of each seed that is done `value` and accuracy in percent [seeds, 2]."""
        pairs = ((value(record), record.accuracy) for record in self.line.done)
        known = [pair for pair in pairs if None not in pair]
        return np.array(known, dtype=np.float64).reshape(-1, 2)

    @property
    def accuracies(self) -> np.ndarray:
        """In percent, of each seed that is done [seeds]."""
        return np.array(self.line.stat("accuracy").values)


def make_marks(table: Table) -> list[Mark]:
    """A mark for each line of a table.

    Rows in an order (those along `Section.x`, or of fixed depths around a net that was found) go
    from light to dark; all others are told apart by colour and shape.
    """
    lines = table.lines
    x, among_fixed = table.section.x, any(line.found for line in lines)
    told = telling_columns(table)
    x_at = table.section.columns.index(x) if x else None
    labels = [" / ".join(line.names[i] for i in told) for line in lines]
    if x_at is not None:
        series = [_join(line, [i for i in told if i != x_at]) for line in lines]
    elif among_fixed:
        series = [_trained_on(line) for line in lines]
    else:
        series = [_join(line, told[:-1]) for line in lines]
    variants = [line.names[told[-1]] for line in lines]
    if x or among_fixed:
        styles = _in_order(lines, series)
    else:
        styles = _apart(series, variants, lone=len(told) == 1)
    return [
        Mark(line, escape(label), group, *style)
        for line, label, group, style in zip(lines, labels, series, styles, strict=True)
    ]


def escape(text: str) -> str:
    """Text for a figure: a dollar begins no formula, a first underscore hides no legend entry."""
    return (" " + text if text.startswith("_") else text).replace("$", r"\$")


def telling_columns(table: Table) -> list[int]:
    """As few of the first columns as tell the rows apart; none that is the same in all rows."""
    section, lines = table.section, table.lines
    told: list[int] = []
    for i, name in enumerate(section.columns):
        apart = len({tuple(line.names[j] for j in told) for line in lines}) == len(lines)
        varies = len({line.names[i] for line in lines}) > 1
        if varies and (not apart or name == section.x):
            told.append(i)
    return told or [0]


def _join(line: Line, columns: Sequence[int]) -> str:
    return " / ".join(line.names[i] for i in columns)


def _trained_on(line: Line) -> str:
    settings = line.records[0].cell.settings if line.records else {}
    names = (settings.get("model", {}).get("family"), settings.get("data", {}).get("name"))
    return " / ".join(str(name) for name in names)


def _in_order(lines: Sequence[Line], series: Sequence[str]) -> list[tuple[str, str]]:
    groups = list(dict.fromkeys(series))
    styles = []
    for line, group in zip(lines, series, strict=True):
        number = groups.index(group)
        alike = [other for other, of in zip(lines, series, strict=True) if of == group]
        alike = [other for other in alike if other.found == line.found]
        place = next(i for i, other in enumerate(alike) if other is line)
        share = place / max(1, len(alike) - 1)
        if len(groups) == 1 and line.found:
            color = _STAR_COLORS[place % len(_STAR_COLORS)]
        elif len(groups) == 1:
            color = to_hex(matplotlib.colormaps[_ALONE](0.12 + 0.88 * share))
        else:
            colors = matplotlib.colormaps[_MAPS[number % len(_MAPS)]]
            color = to_hex(colors(0.4 + 0.55 * share))
        styles.append((color, "*" if line.found else _SHAPES[number % len(_SHAPES)]))
    return styles


def _apart(series: Sequence[str], variants: Sequence[str], *, lone: bool) -> list[tuple[str, str]]:
    groups, kinds = list(dict.fromkeys(series)), list(dict.fromkeys(variants))
    if lone or len(groups) > len(_COLORS) or len(kinds) > len(_SHAPES):
        numbers = range(len(series))
        pairs = [(i % len(_COLORS), i // len(_COLORS) % len(_SHAPES)) for i in numbers]
    else:
        pairs = [
            (groups.index(group), kinds.index(kind))
            for group, kind in zip(series, variants, strict=True)
        ]
    return [(_COLORS[color], _SHAPES[shape]) for color, shape in pairs]
