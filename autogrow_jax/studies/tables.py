"""The tables of a study as text, Markdown, CSV and JSON."""

import csv
import dataclasses
import io
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from tabulate import tabulate

from autogrow_jax.reporting import replace_file, to_json
from autogrow_jax.reporting.result import format_depths
from autogrow_jax.studies import Published
from autogrow_jax.studies.records import Line, Stat, Table
from autogrow_jax.studies.remarks import describe, make_remarks

# A terminal's columns; a table that needs more is continued under itself.
_WIDTH = 120
# Texts that are wider than this are broken at their spaces.
_MAX_CELL = 30
_WHOLE_WORDS: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
_NOTHING = "-"


def write_tables(title: str, tables: Sequence[Table], folder: Path, *, command: str) -> list[Path]:
    """Writes `table.txt`, `.md`, `.csv` and `.json` of a study, each whole or not at all.

    `command` is that with which the numbers can be had again. Returns the files written.
    """
    texts = {
        "table.txt": format_text(title, tables, command=command) + "\n",
        "table.md": format_markdown(title, tables, command=command) + "\n",
        "table.csv": format_csv(tables),
        "table.json": format_json(title, tables, command=command) + "\n",
    }
    for name, text in texts.items():
        replace_file(folder / name, text.encode())
    return [folder / name for name in texts]


# --- For people.


def format_text(title: str, tables: Sequence[Table], *, command: str) -> str:
    """Formats the tables for a terminal, without a line end after the last."""
    common, own = describe(tables)
    parts = [f"{title}\n{'=' * len(title)}"]
    for table, sentences in zip(tables, own, strict=True):
        heading = table.section.title
        parts.append(f"{heading}\n{'-' * len(heading)}\n{_text_table(table)}")
        parts.append("\n".join(_wrap(remark, "- ") for remark in make_remarks(table)))
        parts.append("\n".join(_wrap(note) for note in (table.section.note, *sentences) if note))
    parts += ["\n".join(_wrap(sentence, "* ") for sentence in common), command]
    return "\n\n".join(filter(None, parts))


def format_markdown(title: str, tables: Sequence[Table], *, command: str) -> str:
    """Formats the tables as GitHub renders them, without a line end after the last."""
    common, own = describe(tables)
    parts = [f"# {_escape(title)}"]
    for table, sentences in zip(tables, own, strict=True):
        columns = [
            _Column(column.group, _escape(column.header), list(map(_escape, column.cells)))
            for column in _make_columns(table)
        ]
        parts += [f"## {_escape(table.section.title)}", _draw(columns, "pipe")]
        parts.append("\n".join(f"- {_escape(remark)}" for remark in make_remarks(table)))
        parts += map(_escape, (table.section.note, *sentences))
    parts.append("\n".join(f"- {_escape(sentence)}" for sentence in common))
    parts.append(f"```sh\n{command}\n```" if command else "")
    return "\n\n".join(filter(None, parts))


class _Column(NamedTuple):
    """Texts, one a line of the table; columns of one group stay side by side."""

    group: str
    header: str
    cells: list[str]


def _text_table(table: Table) -> str:
    """The table; where it is too wide its groups of columns stand under each other."""
    columns = [
        column._replace(cells=[textwrap.fill(c, _MAX_CELL, **_WHOLE_WORDS) for c in column.cells])
        for column in _make_columns(table)
    ]
    names, *groups = (list(group) for _, group in groupby(columns, key=lambda c: c.group))
    blocks: list[list[_Column]] = []
    for group in groups:
        if blocks and max(map(len, _draw([*blocks[-1], *group]).split("\n"))) <= _WIDTH:
            blocks[-1] += group
        else:
            blocks.append([*names, *group])
    return "\n\n".join(map(_draw, blocks or [names]))


def _draw(columns: Sequence[_Column], form: str = "simple") -> str:
    return tabulate(
        {i: column.cells for i, column in enumerate(columns)},
        [column.header for column in columns],
        form,
        disable_numparse=True,
        preserve_whitespace=True,
        colalign=["right" if column.group == "cost" else "left" for column in columns],
    )


def _wrap(text: str, first: str = "") -> str:
    indents: dict[str, Any] = {"initial_indent": first, "subsequent_indent": " " * len(first)}
    return textwrap.fill(text, _WIDTH - 20, **indents, **_WHOLE_WORDS)


def _escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line; an underscore within a word needs nothing."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"[\\`*\[\]|~$]|(?<!\w)_|_(?!\w)", lambda match: "\\" + match[0], text)


def _make_columns(table: Table) -> list[_Column]:
    """Makes the columns of a table, without those in which no line has anything."""
    lines = table.lines

    def column(group: str, header: str, show: Callable[[Line], str]) -> _Column:
        return _Column(group, header, [show(line) or _NOTHING for line in lines])

    def paper(group: str, header: str, show: Callable[[Published], str]) -> _Column:
        return column(group, header, lambda x: show(x.row.published) if x.row.published else "")

    def means(name: str) -> list[float | None]:
        return [line.stat(name).mean for line in lines]

    optional = [
        column("found", "depths", _depths),
        paper("found", "paper:\ndepths", lambda p: format_depths(p.depths)),
        column("found", "accuracy %", _accuracy),
        paper("found", "paper:\naccuracy", lambda p: _points(p.accuracy)),
        column("scratch", "from\nscratch %", lambda x: _stat(x.baseline, len(x.baselines))),
        column("scratch", "delta", lambda x: _stat(x.delta, len(x.baselines), "+")),
        paper("scratch", "paper:\ndelta", lambda p: _points(p.delta, "+")),
        _numbers("epochs", means("epochs"), whole=True),
        _flops("forward", means("flops")),
        _flops("training", means("training_flops")),
        _numbers("seconds", means("seconds")),
        _numbers("parameters", means("num_params"), whole=True),
    ]
    names = [
        _Column("name", name, [line.row.names[i] for line in lines])
        for i, name in enumerate(table.section.columns)
    ]
    return names + [each for each in optional if set(each.cells) != {_NOTHING}]


def _depths(line: Line) -> str:
    names = [format_depths(record.depths) for record in line.records if record.depths]
    return names[0] if len(set(names)) == 1 else ", ".join(names)


def _accuracy(line: Line) -> str:
    stat = line.stat("accuracy")
    if not stat.values and any(record.state == "failed" for record in line.records):
        return "failed"
    return _stat(stat, len(line.records))


def _stat(stat: Stat, expected: int, sign: str = "") -> str:
    """ "91.20 ± 0.31", with the number of values where it is less than `expected`."""
    spread = f" ± {stat.std:.2f}" if stat.std is not None else ""
    missing = f" (n={len(stat.values)})" if 0 < len(stat.values) < expected else ""
    return f"{_points(stat.mean, sign)}{spread}{missing}"


def _points(value: float | None, sign: str = "") -> str:
    # What rounds to zero loses its minus.
    return "" if value is None else f"{round(value, 2) + 0.0:{sign}.2f}"


def _flops(header: str, means: Sequence[float | None]) -> _Column:
    """FLOPs in the unit of the smallest of them, such as MFLOP."""
    smallest = min((mean for mean in means if mean), default=1.0)
    power = min(max(int(math.log10(smallest) // 3), 0), 6)
    scaled = [None if mean is None else mean / 1000.0**power for mean in means]
    return _numbers(f"{header}\n{'kMGTPE'[power - 1 : power]}FLOP", scaled)


def _numbers(header: str, means: Sequence[float | None], *, whole: bool = False) -> _Column:
    """Means, all with so many decimals that the smallest has three figures, two at most."""
    smallest = min((abs(mean) for mean in means if mean is not None), default=0.0)
    decimals = 0 if whole or smallest >= 100 else 1 if smallest >= 10 else 2
    cells = [_NOTHING if mean is None else f"{mean:,.{decimals}f}" for mean in means]
    return _Column("cost", header, cells)


# --- For programs.


def format_csv(tables: Sequence[Table]) -> str:
    """Gives each row of the study a line; a number that there is not is an empty field.

    Columns: `section`; `row`, its names together; each name of a section's first columns; what is
    in the tables. Accuracies are in percent, deltas in points, `flops` of one image forward;
    `..._std` is the sample standard deviation over seeds, `n` how many seeds `accuracy` is of.
    """
    lines = [(t.section.columns, line.row.names, _csv(t, line)) for t in tables for line in t.lines]
    section, row, *numbers = lines[0][2] if lines else ("section", "row")
    # A section's column of the same name as one of ours is called otherwise.
    ours = {section, row, *numbers}
    named = {c: f"{c}_" if c in ours else c for columns, *_ in lines for c in columns}
    buffer = io.StringIO()
    header = [section, row, *dict.fromkeys(named.values()), *numbers]
    writer = csv.DictWriter(buffer, header, lineterminator="\n")
    writer.writeheader()
    for columns, names, fields in lines:
        own = {named[column]: name for column, name in zip(columns, names, strict=True)}
        writer.writerow(own | fields)
    return buffer.getvalue()


def format_json(title: str, tables: Sequence[Table], *, command: str) -> str:
    """Holds everything: tables, their lines, statistics, records of single seeds; NaN is null."""
    content = [
        {
            "title": table.section.title,
            "columns": table.section.columns,
            "note": table.section.note,
            "x": table.section.x,
            "seeds": table.seeds,
            "lines": [_json(line) for line in table.lines],
        }
        for table in tables
    ]
    return to_json({"title": title, "command": command, "tables": content}, "tables", indent=2)


def _csv(table: Table, line: Line) -> dict[str, Any]:
    stats, published, records = line.stats, line.row.published, line.records
    fields: dict[str, Any] = {
        "section": table.section.title,
        "row": line.row.label,
        "seeds": " ".join(map(str, table.seeds)),
        "num_seeds": len(records),
        "n": len(stats["accuracy"].values),
        "scratch_n": len(line.baseline.values),
        "delta_n": len(line.delta.values),
        "is_found": line.row.found,
        "found_depths": " ".join(format_depths(r.depths) for r in records if r.depths),
        "paper_depths": format_depths(published.depths) if published else "",
        "paper_accuracy": published.accuracy if published else None,
        "paper_delta": published.delta if published else None,
    }
    for name, stat in stats.items():
        fields |= {f"{name}_mean": stat.mean, f"{name}_std": stat.std}
    runs = [record for record in (*records, *line.baselines) if record.state == "done"]
    return fields | {
        "validation": _each(record.validation or "unknown" for record in runs),
        "machine": _each(record.machine or "unknown" for record in runs),
        "num_failed": len(line.failed),
        "num_missing": sum(record.state == "missing" for record in records),
        "error": _each(f"{record.cell.label}: {record.reason}" for record in line.failed),
    }


def _each(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(texts))


def _json(line: Line) -> dict[str, Any]:
    return {
        "names": line.row.names,
        "found": line.row.found,
        "paper": dataclasses.asdict(line.row.published) if line.row.published else None,
        **{
            name: {"mean": s.mean, "std": s.std, "n": len(s.values), "values": s.values}
            for name, s in line.stats.items()
        },
        "runs": [dataclasses.asdict(record) for record in line.records],
        "runs_from_scratch": [dataclasses.asdict(record) for record in line.baselines],
    }
