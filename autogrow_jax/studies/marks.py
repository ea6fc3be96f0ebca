"""What each row of a study looks like in its figures, and what of the rows fits into them."""

import dataclasses
from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
from matplotlib.colors import to_hex

from autogrow_jax.reporting.marks import stage_color
from autogrow_jax.studies.records import Line, Record, Table
from autogrow_jax.studies.study import Published

# Of the palette of Okabe and Ito, as the stages of a run; then its remaining ones.
_COLORS = (*(stage_color(i) for i in range(5)), "#e69f00", "#000000")
_SHAPES = ("o", "s", "^", "D", "v", "P", "X", "p")
# Of rows in an order, from light to dark: alone, or beside other such series.
_ALONE, _MAPS = "viridis_r", ("Blues", "Oranges", "Greens", "Purples", "Reds", "Greys")
_STAR_COLORS = ("#d55e00", "#cc79a7", "#e69f00", "#56b4e9")
# Rows so many times the spread of all others under them are left below the panels; a quarter of
# all rows at most.
_FAR_BELOW = 3
# The paper's marks may widen an axis by this part of it at either end.
_PAPER_ROOM = 0.35
# The least that the accuracy axis spans, in percentage points.
_MIN_POINTS = 0.5


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
        """Gives of each seed that is done `value` and accuracy in percent [seeds, 2]."""
        pairs = ((value(record), record.accuracy) for record in self.line.done)
        known = [pair for pair in pairs if None not in pair]
        return np.array(known, dtype=np.float64).reshape(-1, 2)

    @property
    def accuracies(self) -> tuple[float, ...]:
        """In percent, of each seed that is done."""
        return self.line.stat("accuracy").values

    @property
    def mean(self) -> float:
        """Of the accuracies; 0 where there is none."""
        return self.line.stat("accuracy").mean or 0.0

    @property
    def std(self) -> float:
        """Of the accuracies; 0 of fewer than two."""
        return self.line.stat("accuracy").std or 0.0


class View:
    """What the panels of a figure share.

    Attributes:
      marks: of all rows.
      below: those whose accuracy lies far below all others.
      drawn: all others that have one.
      among_fixed: whether a net that was found lies among fixed depths, which are then joined.
      paper: those whose published net is near enough to ours to be drawn without pressing ours.
      bottom, top: of the accuracy axis, in percent.
    """

    def __init__(self, table: Table):
        self.marks = make_marks(table)
        known = [mark for mark in self.marks if mark.accuracies]
        self.below = _far_below(known)
        self.drawn = [mark for mark in known if mark not in self.below]
        self.among_fixed = len({mark.line.found for mark in known}) == 2
        ends = [
            end
            for mark in self.drawn
            for end in (*mark.accuracies, mark.mean - mark.std, mark.mean + mark.std)
        ]
        blocks = [value for mark in self.drawn for value in mark.line.stat("blocks").values]
        self.paper: list[tuple[Mark, Published]] = [
            (mark, published)
            for mark in self.drawn
            for published in [mark.line.published]
            if published
            and _is_near(published.accuracy, ends, _MIN_POINTS)
            and (not published.depths or _is_near(sum(published.depths), blocks, 10))
        ]
        ends += [published.accuracy for _, published in self.paper]
        low, high = min(ends, default=0.0), max(ends, default=100.0)
        pad = max(0.06 * (high - low), (_MIN_POINTS - (high - low)) / 2)
        self.bottom = low - pad
        self.top = min(high + pad, 100 + 0.03 * (high + pad - self.bottom))


def make_marks(table: Table) -> list[Mark]:
    """Makes a mark for each line of a table.

    Rows in an order (those along `Section.x`, or of fixed depths around a net that was found) go
    from light to dark; all others are told apart by colour and shape.
    """
    lines, section, told = table.lines, table.section, telling_columns(table)
    among_fixed = any(line.found for line in lines)
    if section.x:
        groups = [i for i in told if section.columns[i] != section.x]
        series = [_join(line, groups) for line in lines]
    elif among_fixed:
        series = [_trained_on(line) for line in lines]
    else:
        series = [_join(line, told[:-1]) for line in lines]
    if section.x or among_fixed:
        styles = _in_order([line.found for line in lines], series)
    else:
        styles = _apart(series, [line.names[told[-1]] for line in lines], lone=len(told) == 1)
    return [
        Mark(line, escape(_join(line, told)), group, *style)
        for line, group, style in zip(lines, series, styles, strict=True)
    ]


def telling_columns(table: Table) -> list[int]:
    """Finds as few of the first columns as tell the rows apart; none that never changes."""
    section, lines = table.section, table.lines
    told: list[int] = []
    for i, name in enumerate(section.columns):
        apart = len({tuple(line.names[j] for j in told) for line in lines}) == len(lines)
        varies = len({line.names[i] for line in lines}) > 1
        if varies and (not apart or name == section.x):
            told.append(i)
    return told or [0]


def escape(text: str) -> str:
    """Text for a figure: a dollar begins no formula, a first underscore hides no legend entry."""
    return (" " + text if text.startswith("_") else text).replace("$", r"\$")


def _join(line: Line, columns: Sequence[int]) -> str:
    return " / ".join(line.names[i] for i in columns)


def _trained_on(line: Line) -> str:
    settings = line.records[0].cell.settings if line.records else {}
    return f"{settings.get('model', {}).get('family')} {settings.get('data', {}).get('name')}"


def _in_order(found: Sequence[bool], series: Sequence[str]) -> list[tuple[str, str]]:
    groups, kinds = list(dict.fromkeys(series)), list(zip(series, found, strict=True))
    styles = []
    for i, (group, star) in enumerate(kinds):
        number, place = groups.index(group), kinds[:i].count(kinds[i])
        share = place / max(1, kinds.count(kinds[i]) - 1)
        if len(groups) > 1:
            color = to_hex(matplotlib.colormaps[_MAPS[number % len(_MAPS)]](0.4 + 0.55 * share))
        elif star:
            color = _STAR_COLORS[place % len(_STAR_COLORS)]
        else:
            color = to_hex(matplotlib.colormaps[_ALONE](0.12 + 0.88 * share))
        styles.append((color, "*" if star else _SHAPES[number % len(_SHAPES)]))
    return styles


def _apart(series: Sequence[str], variants: Sequence[str], *, lone: bool) -> list[tuple[str, str]]:
    groups, kinds = list(dict.fromkeys(series)), list(dict.fromkeys(variants))
    if lone or len(groups) > len(_COLORS) or len(kinds) > len(_SHAPES):
        pairs = [(i, i // len(_COLORS)) for i in range(len(series))]
    else:
        both = zip(series, variants, strict=True)
        pairs = [(groups.index(group), kinds.index(kind)) for group, kind in both]
    return [(_COLORS[i % len(_COLORS)], _SHAPES[j % len(_SHAPES)]) for i, j in pairs]


def _is_near(value: float, values: Sequence[float], least: float) -> bool:
    room = _PAPER_ROOM * max(max(values) - min(values), least)
    return min(values) - room <= value <= max(values) + room


def _far_below(marks: Sequence[Mark]) -> list[Mark]:
    ordered = sorted(marks, key=lambda mark: mark.mean)
    means = [mark.mean for mark in ordered]
    for count in range(1, len(means) // 4 + 1):
        spread = max(means[-1] - means[count], 0.5)
        if means[count] - means[count - 1] > _FAR_BELOW * spread:
            return ordered[:count]
    return []
