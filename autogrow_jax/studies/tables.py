"""The tables of a study as text, Markdown, CSV and JSON."""

import csv
import dataclasses
import io
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

__all__ = ["format_csv", "format_json", "format_markdown", "format_text", "write_tables"]

# A terminal's columns; a table that needs more is continued under itself.
_WIDTH = 120
# Texts that are wider than this are broken at their spaces.
_MAX_CELL = 30
_WHOLE_WORDS: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
_NOTHING = "-"
_PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))


def write_tables(title: str, tables: Sequence[Table], folder: Path, *, command: str) -> list[Path]:
    """Writes `table.txt`, `table.md`, `table.csv` and `table.json`, each whole or not at all.

    Args:
      title: of the study.
      tables: its sections.
      folder: where to; made if missing.
      command: with which the numbers can be had again.

    Returns:
      The files written.
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
        remarks = [_wrap(remark, "- ") for remark in make_remarks(table)]
        notes = [_wrap(note) for note in (table.section.note, *sentences) if note]
        parts += ["\n".join(lines) for lines in (remarks, notes) if lines]
    parts.append("\n".join(_wrap(sentence, "* ") for sentence in common))
    return "\n\n".join([*parts, command] if command else parts)


def format_markdown(title: str, tables: Sequence[Table], *, command: str) -> str:
    """Formats the tables as GitHub renders them, without a line end after the last."""
    common, own = describe(tables)
    parts = [f"# {_escape(title)}"]
    for table, sentences in zip(tables, own, strict=True):
        columns = [
            column._replace(header=_escape(column.header), cells=list(map(_escape, column.cells)))
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
    names = [
        _Column("name", name, [line.names[i] for line in lines])
        for i, name in enumerate(table.section.columns)
    ]

    def paper(show: Callable[[Published], str]) -> list[str]:
        return [(show(line.published) if line.published else "") or _NOTHING for line in lines]

    def numbers(name: str) -> list[float | None]:
        return [line.stat(name).mean for line in lines]

    baselines = [_stat(line.baseline, len(line.baselines)) for line in lines]
    deltas = [_stat(line.delta, len(line.baselines), "+") for line in lines]
    paper_delta = paper(lambda p: "" if p.delta is None else _points(p.delta, "+"))
    optional = [
        _Column("found", "depths", [_depths(line) for line in lines]),
        _Column("found", "paper:\ndepths", paper(lambda p: format_depths(p.depths))),
        _Column("found", "accuracy %", [_accuracy(line) for line in lines]),
        _Column("found", "paper:\naccuracy", paper(lambda p: _points(p.accuracy))),
        _Column("scratch", "from\nscratch %", baselines),
        _Column("scratch", "delta", deltas),
        _Column("scratch", "paper:\ndelta", paper_delta),
        _numbers("epochs", numbers("epochs"), whole=True),
        _scaled("forward", numbers("flops")),
        _scaled("training", numbers("training_flops")),
        _numbers("seconds", numbers("seconds")),
        _numbers("parameters", numbers("num_params"), whole=True),
    ]
    return names + [column for column in optional if set(column.cells) != {_NOTHING}]


def _depths(line: Line) -> str:
    names = [format_depths(record.depths) for record in line.done if record.depths]
    return (names[0] if len(set(names)) == 1 else ", ".join(names)) or _NOTHING


def _accuracy(line: Line) -> str:
    stat = line.stat("accuracy")
    if not stat.values and any(record.state == "failed" for record in line.records):
        return "failed"
    return _stat(stat, len(line.records))


def _stat(stat: Stat, expected: int, sign: str = "") -> str:
    """ "91.20 ± 0.31", with the number of values where it is less than `expected`."""
    if stat.mean is None:
        return _NOTHING
    text = _points(stat.mean, sign) + (f" ± {stat.std:.2f}" if stat.std is not None else "")
    return text if len(stat.values) == expected else f"{text} (n={len(stat.values)})"


def _points(value: float, sign: str = "") -> str:
    return f"{round(value, 2) + 0.0:{sign}.2f}"  # What rounds to zero loses its minus.


def _scaled(header: str, means: Sequence[float | None]) -> _Column:
    """FLOPs in the unit of the smallest of them, such as MFLOP."""
    smallest = min(filter(None, means), default=1.0)
    scale, prefix = next((pair for pair in _PREFIXES if smallest >= pair[0]), _PREFIXES[-1])
    scaled = [None if mean is None else mean / scale for mean in means]
    return _numbers(f"{header}\n{prefix}FLOP", scaled)


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
    rows = [
        ({"section": t.section.title, "row": line.label}, t.section.columns, line, _csv(t, line))
        for t in tables
        for line in t.lines
    ]
    fixed = {name for first, _, _, numbers in rows for name in (*first, *numbers)}
    # A section's column of the same name as one of ours is called otherwise.
    named = {c: f"{c}_" if c in fixed else c for _, columns, *_ in rows for c in columns}
    content = [
        first
        | dict.fromkeys(named.values(), "")
        | {named[c]: name for c, name in zip(columns, line.names, strict=True)}
        | numbers
        for first, columns, line, numbers in rows
    ]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(content[0]) if content else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(content)
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
    stats, published = line.stats, line.published
    fields: dict[str, Any] = {
        "seeds": " ".join(map(str, table.seeds)),
        "num_seeds": len(line.records),
        "n": len(stats["accuracy"].values),
        "scratch_n": len(line.baseline.values),
        "delta_n": len(line.delta.values),
        "is_found": line.found,
        "found_depths": " ".join(format_depths(record.depths or ()) for record in line.done),
        "paper_depths": format_depths(published.depths) if published else "",
        "paper_accuracy": published.accuracy if published else None,
        "paper_delta": published.delta if published else None,
    }
    for name, stat in stats.items():
        fields |= {f"{name}_mean": stat.mean, f"{name}_std": stat.std}
    runs = [record for record in (*line.records, *line.baselines) if record.state == "done"]
    return fields | {
        "validation": _each(record.validation or "unknown" for record in runs),
        "machine": _each(record.machine or "unknown" for record in runs),
        "num_failed": len(line.failed),
        "num_missing": sum(record.state == "missing" for record in line.records),
        "error": _each(f"{record.cell.label}: {record.reason}" for record in line.failed),
    }


def _each(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(texts))


def _json(line: Line) -> dict[str, Any]:
    return {
        "names": line.names,
        "found": line.found,
        "paper": dataclasses.asdict(line.published) if line.published else None,
        **{
            name: {"mean": s.mean, "std": s.std, "n": len(s.values), "values": s.values}
            for name, s in line.stats.items()
        },
        "runs": [dataclasses.asdict(record) for record in line.records],
        "runs_from_scratch": [dataclasses.asdict(record) for record in line.baselines],
    }
