"""The tables of a study as text, Markdown, CSV and JSON."""

import csv
import dataclasses
import io
import re
import textwrap
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from autogrow_jax.reporting.files import replace_file, to_json
from autogrow_jax.reporting.result import format_depths
from autogrow_jax.studies.formats import Column, Grid, describe, failure, make_grid
from autogrow_jax.studies.records import Line, Stat, Table

__all__ = ["format_csv", "format_json", "format_markdown", "format_text", "write_tables"]

# A terminal's columns; a table that needs more is continued under itself.
_WIDTH = 120
_GAP = "  "
# Texts that are wider than this are broken at their spaces.
_MAX_NAME, _MAX_DEPTHS = 30, 26

# Numbers of a record that CSV and JSON have as mean and standard deviation, beside accuracies.
_NUMBERS = (
    "epochs",
    "growth_epochs",
    "num_params",
    "flops",
    "training_flops",
    "seconds",
    "compile_seconds",
)


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


# --- Text.


def format_text(title: str, tables: Sequence[Table], *, command: str) -> str:
    """The tables for a terminal, in aligned columns, without a line end after the last."""
    common, own = describe(tables)
    parts = [f"{title}\n{'=' * len(title)}"]
    for table, sentences in zip(tables, own, strict=True):
        heading = table.section.title
        parts.append(f"{heading}\n{'-' * len(heading)}\n{_text_table(make_grid(table))}")
        notes = [table.section.note, *sentences] if table.section.note else sentences
        if notes:
            parts.append("\n".join(_wrap(note) for note in notes))
    parts.append("\n".join(_wrap(sentence, "* ") for sentence in common))
    if command:
        parts.append(command)
    return "\n\n".join(parts)


def _text_table(grid: Grid) -> str:
    """The table; where it is too wide its groups of columns stand under each other."""
    columns = [_TextColumn(column) for column in grid.columns]
    groups = [list(group) for _, group in groupby(columns, key=lambda column: column.group)]
    names = groups.pop(0)
    blocks = [names]
    for group in groups:
        if blocks[-1] is not names and _width([*blocks[-1], *group]) > _WIDTH:
            blocks.append(names)
        blocks[-1] = [*blocks[-1], *group]
    lines: list[str] = []
    for number, block in enumerate(blocks):
        lines += [""] if number else []
        lines += _text_row([column.header for column in block], block, bottom=True)
        lines.append(_GAP.join("-" * column.width for column in block))
        for row, remarks in enumerate(grid.remarks):
            lines += _text_row([column.cells[row] for column in block], block)
            if number == 0:
                lines += [_wrap(remark, "    ") for remark in remarks]
    return "\n".join(lines)


class _TextColumn:
    """A column whose cells are lists of lines, none wider than `width`."""

    def __init__(self, column: Column):
        self.group = column.group
        self.right = column.align == "right"
        cells = column.cells
        if column.align == "point":
            before = max(cell.find(".") for cell in cells)
            cells = tuple(c.rjust(before - c.find(".") + len(c)) if "." in c else c for c in cells)
        most = _MAX_NAME if column.group == "name" else _MAX_DEPTHS
        self.cells = [[cell] if len(cell) <= most else _break(cell, most) for cell in cells]
        widest = max(len(text) for cell in self.cells for text in cell)
        self.header = _break(column.header, max(1, widest, *map(len, column.header.split())))
        self.width = max(widest, *map(len, self.header))


def _width(columns: Sequence[_TextColumn]) -> int:
    return sum(column.width + len(_GAP) for column in columns) - len(_GAP)


def _text_row(
    cells: Sequence[list[str]], columns: Sequence[_TextColumn], *, bottom: bool = False
) -> list[str]:
    height = max(len(cell) for cell in cells)
    lines = []
    for i in range(height):
        texts = []
        for cell, column in zip(cells, columns, strict=True):
            at = i - (height - len(cell)) if bottom else i
            text = cell[at] if 0 <= at < len(cell) else ""
            texts.append(text.rjust(column.width) if column.right else text.ljust(column.width))
        lines.append(_GAP.join(texts).rstrip())
    return lines


def _break(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


def _wrap(text: str, first: str = "") -> str:
    return textwrap.fill(
        text,
        _WIDTH - 20,
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_long_words=False,
        break_on_hyphens=False,
    )


# --- Markdown.


def format_markdown(title: str, tables: Sequence[Table], *, command: str) -> str:
    """The tables as GitHub renders them, without a line end after the last."""
    common, own = describe(tables)
    parts = [f"# {_escape(title)}"]
    for table, sentences in zip(tables, own, strict=True):
        parts += [f"## {_escape(table.section.title)}", _markdown_table(make_grid(table))]
        parts += [_escape(note) for note in (table.section.note, *sentences) if note]
    parts.append("\n".join(f"- {_escape(sentence)}" for sentence in common))
    if command:
        parts.append(f"```sh\n{command}\n```")
    return "\n\n".join(parts)


def _markdown_table(grid: Grid) -> str:
    columns = list(grid.columns)
    if any(grid.remarks):
        columns.append(Column("remarks", tuple("; ".join(r) for r in grid.remarks), "found"))
    rows = [
        [column.header for column in columns],
        *zip(*(column.cells for column in columns), strict=True),
    ]
    lines = [f"| {' | '.join(_escape(cell) for cell in row)} |" for row in rows]
    rule = "|".join("---:" if column.align == "right" else "---" for column in columns)
    return "\n".join([lines[0], f"|{rule}|", *lines[1:]])


def _escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line; an underscore within a word needs nothing."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"[\\`*\[\]|~$]|(?<!\w)_|_(?!\w)", lambda match: "\\" + match[0], text)


# --- CSV.


def format_csv(tables: Sequence[Table]) -> str:
    """A line for each row of the study; a number that there is not is an empty field.

    Columns: `section`; `row`, its names together; each name of a section's first columns; what is
    in the tables. Accuracies are in percent, deltas in points, `flops` of one image forward;
    `..._std` is the sample standard deviation over seeds, `n` how many seeds `accuracy` is of.
    """
    rows = []
    for table in tables:
        for line in table.lines:
            names = dict(zip(table.section.columns, line.names, strict=True))
            rows.append((table, line, names))
    reserved = {"section", "row", *(_csv_numbers(rows[0][0], rows[0][1]) if rows else ())}
    named = list(dict.fromkeys(name for *_, names in rows for name in names))
    content = []
    for table, line, names in rows:
        first = {"section": table.section.title, "row": " / ".join(line.names)}
        own = {f"{name}_" if name in reserved else name: names.get(name, "") for name in named}
        content.append(first | own | _csv_numbers(table, line))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(content[0]) if content else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(content)
    return buffer.getvalue()


def _csv_numbers(table: Table, line: Line) -> dict[str, Any]:
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
    for name, stat in _numbers(line).items():
        fields |= {f"{name}_mean": stat.mean, f"{name}_std": stat.std}
    runs = [record for record in (*line.records, *line.baselines) if record.state == "done"]
    fields["validation"] = _join(record.validation for record in runs)
    fields["machine"] = _join(record.machine for record in runs)
    fields["num_failed"] = len(line.failed)
    fields["num_missing"] = sum(record.state == "missing" for record in line.records)
    fields["error"] = "; ".join(f"{r.cell.label}: {failure(r)}" for r in line.failed)
    return fields


def _numbers(line: Line) -> dict[str, Stat]:
    return {"blocks": line.blocks, **{name: line.stat(name) for name in _NUMBERS}}


def _join(values: Iterable[str | None]) -> str:
    return "; ".join(dict.fromkeys(value or "unknown" for value in values))


# --- JSON.


def format_json(title: str, tables: Sequence[Table], *, command: str) -> str:
    """Everything: each table, its lines, and each line's statistics and records of single seeds.

    NaN is written as null.
    """
    return to_json(
        {"title": title, "command": command, "tables": [_table_content(t) for t in tables]},
        "tables",
        indent=2,
    )


def _table_content(table: Table) -> dict[str, Any]:
    section = table.section
    return {
        "title": section.title,
        "columns": section.columns,
        "note": section.note,
        "x": section.x,
        "seeds": table.seeds,
        "lines": [_line_content(line) for line in table.lines],
    }


def _line_content(line: Line) -> dict[str, Any]:
    stats = {
        "accuracy": line.stat("accuracy"),
        "scratch_accuracy": line.baseline,
        "delta": line.delta,
        **_numbers(line),
    }
    return {
        "names": line.names,
        "found": line.found,
        "paper": dataclasses.asdict(line.published) if line.published else None,
        **{name: _stat_content(stat) for name, stat in stats.items()},
        "runs": [dataclasses.asdict(record) for record in line.records],
        "runs_from_scratch": [dataclasses.asdict(record) for record in line.baselines],
    }


def _stat_content(stat: Stat) -> dict[str, Any]:
    return {"mean": stat.mean, "std": stat.std, "n": len(stat.values), "values": stat.values}
