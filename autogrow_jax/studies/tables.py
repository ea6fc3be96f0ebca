"""The tables of a study as text, Markdown, CSV and JSON."""

import csv
import dataclasses
import io
import re
import textwrap
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from tabulate import tabulate

from autogrow_jax.reporting import replace_file, to_json
from autogrow_jax.reporting.result import format_depths
from autogrow_jax.studies.formats import Column, describe, make_columns, make_remarks
from autogrow_jax.studies.records import NUMBERS, Line, Table

__all__ = ["format_csv", "format_json", "format_markdown", "format_text", "write_tables"]

# A terminal's columns; a table that needs more is continued under itself.
_WIDTH = 120
# Texts that are wider than this are broken at their spaces.
_MAX_CELL = 30
_WHOLE_WORDS: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}


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
            column._replace(header=_escape(column.header), cells=map(_escape, column.cells))
            for column in make_columns(table)
        ]
        parts += [f"## {_escape(table.section.title)}", _draw(columns, "pipe")]
        parts.append("\n".join(f"- {_escape(remark)}" for remark in make_remarks(table)))
        parts += map(_escape, (table.section.note, *sentences))
    parts.append("\n".join(f"- {_escape(sentence)}" for sentence in common))
    parts.append(f"```sh\n{command}\n```" if command else "")
    return "\n\n".join(filter(None, parts))


def format_csv(tables: Sequence[Table]) -> str:
    """Gives each row of the study a line; a number that there is not is an empty field.

    Columns: `section`; `row`, its names together; each name of a section's first columns; what is
    in the tables. Accuracies are in percent, deltas in points, `flops` of one image forward;
    `..._std` is the sample standard deviation over seeds, `n` how many seeds `accuracy` is of.
    """
    rows = [
        (
            table.section,
            line,
            {"section": table.section.title, "row": line.label},
            _csv(table, line),
        )
        for table in tables
        for line in table.lines
    ]
    reserved = {name for *_, first, numbers in rows for name in (*first, *numbers)}
    named = list(dict.fromkeys(name for section, *_ in rows for name in section.columns))
    content = []
    for section, line, first, numbers in rows:
        names = dict(zip(section.columns, line.names, strict=True))
        own = {f"{name}_" if name in reserved else name: names.get(name, "") for name in named}
        content.append(first | own | numbers)
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


# --- For people.


def _text_table(table: Table) -> str:
    """The table; where it is too wide its groups of columns stand under each other."""
    columns = []
    for column in make_columns(table):
        cells = ["\n".join(_break(cell, _MAX_CELL)) for cell in column.cells]
        if column.align == "point":
            before = max(cell.find(".") for cell in cells)
            cells = [" " * (before - c.find(".")) + c if "." in c else c for c in cells]
        widest = max(len(text) for cell in cells for text in cell.splitlines() or [""])
        header = _break(column.header, max(1, widest, *map(len, column.header.split())))
        columns.append(column._replace(header="\n".join(header), cells=cells))
    names, *groups = (list(group) for _, group in groupby(columns, key=lambda c: c.group))
    blocks: list[list[Column]] = []
    for group in groups:
        if blocks and len(_draw([*blocks[-1], *group]).split("\n", 1)[0]) <= _WIDTH:
            blocks[-1] += group
        else:
            blocks.append([*names, *group])
    return "\n\n".join(map(_draw, blocks or [names]))


def _draw(columns: Sequence[Column], form: str = "simple") -> str:
    return tabulate(
        list(zip(*(column.cells for column in columns), strict=True)),
        [column.header for column in columns],
        form,
        disable_numparse=True,
        preserve_whitespace=True,
        colalign=["right" if column.align == "right" else "left" for column in columns],
    )


def _break(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, **_WHOLE_WORDS) or [""]


def _wrap(text: str, first: str = "") -> str:
    indents: dict[str, Any] = {"initial_indent": first, "subsequent_indent": " " * len(first)}
    return textwrap.fill(text, _WIDTH - 20, **indents, **_WHOLE_WORDS)


def _escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line; an underscore within a word needs nothing."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"[\\`*\[\]|~$]|(?<!\w)_|_(?!\w)", lambda match: "\\" + match[0], text)


# --- Files for programs.


def _csv(table: Table, line: Line) -> dict[str, Any]:
    accuracy, baseline, delta = line.stat("accuracy"), line.baseline, line.delta
    published = line.published
    fields: dict[str, Any] = {
        "seeds": " ".join(map(str, table.seeds)),
        "num_seeds": len(line.records),
        "n": len(accuracy.values),
        "is_found": line.found,
        "found_depths": " ".join(format_depths(record.depths or ()) for record in line.done),
        "accuracy_mean": accuracy.mean,
        "accuracy_std": accuracy.std,
        "scratch_accuracy_mean": baseline.mean,
        "scratch_accuracy_std": baseline.std,
        "scratch_n": len(baseline.values),
        "delta_mean": delta.mean,
        "delta_std": delta.std,
        "delta_n": len(delta.values),
        "paper_depths": format_depths(published.depths) if published else "",
        "paper_accuracy": published.accuracy if published else None,
        "paper_delta": published.delta if published else None,
    }
    for name in NUMBERS:
        fields |= {f"{name}_mean": line.stat(name).mean, f"{name}_std": line.stat(name).std}
    runs = [record for record in (*line.records, *line.baselines) if record.state == "done"]
    fields["validation"] = "; ".join(dict.fromkeys(r.validation or "unknown" for r in runs))
    fields["machine"] = "; ".join(dict.fromkeys(r.machine or "unknown" for r in runs))
    fields["num_failed"] = len(line.failed)
    fields["num_missing"] = sum(record.state == "missing" for record in line.records)
    fields["error"] = "; ".join(f"{r.cell.label}: {r.reason}" for r in line.failed)
    return fields


def _json(line: Line) -> dict[str, Any]:
    stats = {name: line.stat(name) for name in ("accuracy", *NUMBERS)}
    stats |= {"scratch_accuracy": line.baseline, "delta": line.delta}
    return {
        "names": line.names,
        "found": line.found,
        "paper": dataclasses.asdict(line.published) if line.published else None,
        **{
            name: {"mean": s.mean, "std": s.std, "n": len(s.values), "values": s.values}
            for name, s in stats.items()
        },
        "runs": [dataclasses.asdict(record) for record in line.records],
        "runs_from_scratch": [dataclasses.asdict(record) for record in line.baselines],
    }
