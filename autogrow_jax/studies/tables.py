"""The tables of a study as text, Markdown, CSV and JSON."""

import math
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from tabulate import tabulate

from autogrow_jax.reporting import replace_file
from autogrow_jax.reporting.numbers import format_count, format_depths, round_percent
from autogrow_jax.reporting.result import describe_validation
from autogrow_jax.studies import Published
from autogrow_jax.studies.records import Line, Record, Table, format_csv, format_json

# A terminal's columns; a table that needs more is continued under itself.
_WIDTH = 120
# Texts that are wider than this are broken at their spaces.
_MAX_CELL = 30
_WHOLE_WORDS: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
_NOTHING = "-"
_VERSIONS = ("autogrow_jax", "jax", "jaxlib", "flax", "optax", "python")
_PAPER = (
    "The paper's numbers are of one seed, on the test set that steered its growth, the best of all"
    " epochs."
)
_DELTA = (
    "Delta: accuracy less that of the net that the same seed found, trained from scratch, in"
    " points."
)
_COST = (
    "Epochs, FLOPs, seconds and parameters are means over the seeds that are done, without the runs"
    " from scratch beside them. A multiply-add of convolutions and the linear layer is two FLOPs:"
    " forward, of one image; training, three times that for each image of each epoch, at the depths"
    " of that epoch. Seconds include compiling, on a machine that may have done other work at the"
    " same time, other runs of this study too."
)


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
            c._replace(header=_escape(c.header), cells=list(map(_escape, c.cells)))
            for c in _make_columns(table)
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

    def numbers(header: str, name: str, **how: bool) -> _Column:
        return _numbers(header, [line.stat(name).mean for line in lines], **how)

    optional = [
        column("found", "depths", _depths),
        paper("found", "paper:\ndepths", lambda p: format_depths(p.depths)),
        column("found", "accuracy %", partial(_stat, name="accuracy")),
        paper("found", "paper:\naccuracy", lambda p: _points(p.accuracy)),
        column("scratch", "from\nscratch %", partial(_stat, name="scratch_accuracy")),
        column("scratch", "delta", partial(_stat, name="delta", sign="+")),
        paper("scratch", "paper:\ndelta", lambda p: _points(p.delta, "+")),
        numbers("epochs", "epochs", whole=True),
        numbers("forward", "flops", in_flops=True),
        numbers("training", "training_flops", in_flops=True),
        numbers("seconds", "seconds"),
        numbers("parameters", "num_params", whole=True),
    ]
    names = [
        _Column("name", name, [line.row.names[i] for line in lines])
        for i, name in enumerate(table.section.columns)
    ]
    return names + [each for each in optional if set(each.cells) != {_NOTHING}]


def _depths(line: Line) -> str:
    names = [format_depths(record.depths) for record in line.records if record.depths]
    return names[0] if len(set(names)) == 1 else ", ".join(names)


def _stat(line: Line, name: str, sign: str = "") -> str:
    """ "91.20 ± 0.31", with the number of values where some run has none."""
    stat, runs = line.stat(name), line.records if name == "accuracy" else line.baselines
    if name == "accuracy" and not stat.values and any(run.state == "failed" for run in runs):
        return "failed"
    spread = f" ± {stat.std:.2f}" if stat.std is not None else ""
    missing = f" (n={len(stat.values)})" if 0 < len(stat.values) < len(runs) else ""
    return f"{_points(stat.mean, sign)}{spread}{missing}"


def _points(value: float | None, sign: str = "") -> str:
    # What rounds to zero loses its minus.
    if value is None:
        return ""
    return f"{round(value, 2) + 0.0:{sign}.2f}" if sign else round_percent(value)


def _numbers(
    header: str, means: list[float | None], whole: bool = False, in_flops: bool = False
) -> _Column:
    """Means, all with so many decimals that the smallest has three figures, two at most.

    FLOPs are in the unit of the smallest of them, such as MFLOP.
    """
    if in_flops:
        power = min(max(int(math.log10(min(filter(None, means), default=1.0)) // 3), 0), 6)
        means = [None if mean is None else mean / 1000.0**power for mean in means]
        header = f"{header}\n{'kMGTPE'[power - 1 : power]}FLOP"
    smallest = min((abs(mean) for mean in means if mean is not None), default=0.0)
    decimals = 0 if whole or smallest >= 100 else 1 if smallest >= 10 else 2
    cells = [_NOTHING if mean is None else f"{mean:,.{decimals}f}" for mean in means]
    return _Column("cost", header, cells)


# --- What is said beside a table.


def make_remarks(table: Table) -> list[str]:
    """Says what is missing from which line, and why."""
    return [f"{line.row.label}: {remark}" for line in table.lines for remark in _remarks(line)]


def _remarks(line: Line) -> Iterator[str]:
    # A baseline whose net was never found has nothing of its own to say.
    pairs = zip(line.records, line.baselines, strict=False)
    baselines = [b for found, b in pairs if found.state == "done" or b.state != "missing"]
    for records, prefix in ((line.records, ""), (baselines, "from scratch, ")):
        for record in records:
            seed = f"{prefix}seed {record.cell.seed}"
            if record.state == "failed":
                yield f"{seed} failed: {record.reason}"
            elif record.state == "done" and record.accuracy is None:
                yield f"{seed}: its accuracy is not a number"
        missing = sum(record.state == "missing" for record in records)
        if missing:
            yield f"{prefix}not run yet ({missing} of {len(line.records)} seeds)"


def describe(tables: Sequence[Table]) -> tuple[list[str], list[list[str]]]:
    """Says which split steered, how many seeds there are, on which machine, with which versions.

    Returns:
      The sentences that hold of all tables, and for each table those that hold of it alone.
    """
    about = [_describe(table) for table in tables]
    texts = {kind: text for each in about for kind, text in each.items()}
    common = {k: t for k, t in texts.items() if all(each.get(k, t) == t for each in about)}
    own = [[text for kind, text in each.items() if kind not in common] for each in about]
    return list(common.values()), own


def _describe(table: Table) -> dict[str, str]:
    """Sentences about the numbers of a table, by what they are about."""
    runs = list({r.cell.name: r for r in table.records if r.state == "done"}.values())
    sentences: dict[str, str] = {}
    if runs:
        sentences["split"] = " ".join(_tally(_protocol(record, runs) for record in runs))
    if any(line.row.published for line in table.lines):
        sentences["paper"] = _PAPER
    seeds = ", ".join(map(str, table.seeds))
    sentences["seeds"] = (
        f"Seed {seeds} alone, so nothing is said of the spread."
        if len(table.seeds) == 1
        else f"Seeds {seeds}; ± is the sample standard deviation over those that are done (n="
        " says how many, where not all are)."
    )
    if runs:
        if any(line.baselines for line in table.lines):
            sentences["delta"] = _DELTA
        sentences["cost"] = _COST
        machines = _tally(record.machine or "unknown" for record in runs)
        sentences["machine"] = f"Machine{'s' if len(machines) > 1 else ''}: {'; '.join(machines)}."
        sentences["versions"] = f"Versions: {'; '.join(_tally(map(_versions, runs)))}."
    return sentences


def _protocol(record: Record, runs: Sequence[Record]) -> str:
    """What steered growth, with the number of images where all runs had the same."""
    validation = record.validation or "unknown"
    numbers = {run.num_validation for run in runs if run.validation == record.validation}
    images = describe_validation(validation, numbers.pop() if len(numbers) == 1 else None)
    if validation == "test":
        end = "the best of all epochs on it, as the paper reports it."
    else:
        end = "on the test set, looked at once, with the final weights."
    return f"Growth was steered by {images}; accuracy is {end}"


def _versions(record: Record) -> str:
    named = [f"{name} {record.versions[name]}" for name in _VERSIONS if name in record.versions]
    return ", ".join(named) or "unknown"


def _tally(values: Iterable[str]) -> list[str]:
    """Each value once, with " (5 runs)" where there are several values."""
    counts = Counter(values).items()
    return [f"{v} ({format_count(n, 'run')})" if len(counts) > 1 else v for v, n in counts]
