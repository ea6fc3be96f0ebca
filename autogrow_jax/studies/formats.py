"""What a table of a study says, as short texts: its columns, its remarks, and what holds of both.

Everything a reader needs in order to trust the numbers is a sentence of `describe`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from autogrow_jax.reporting.result import describe_validation, format_depths
from autogrow_jax.studies.records import Line, Record, Stat, Table
from autogrow_jax.studies.study import Published

__all__ = ["Column", "describe", "make_columns", "make_remarks"]

_NOTHING = "-"
_PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
_VERSIONS = ("autogrow_jax", "jax", "jaxlib", "flax", "optax", "python")


class Column(NamedTuple):
    """A column of texts, one a line of the table.

    Attributes:
      header: over it.
      cells: the texts.
      group: columns of one group stay side by side.
      align: at the left, at the right, or at the decimal point.
    """

    header: str
    cells: Iterable[str]
    group: str
    align: str = "left"


def make_columns(table: Table) -> list[Column]:
    """Makes the columns of a table, without those in which no line has anything."""
    lines = table.lines
    names = [
        Column(name, [line.names[i] for line in lines], "name")
        for i, name in enumerate(table.section.columns)
    ]

    def paper(show: Callable[[Published], str]) -> list[str]:
        return [(show(line.published) if line.published else "") or _NOTHING for line in lines]

    def scratch(name: str, sign: str) -> list[str]:
        return [_stat(getattr(line, name), len(line.baselines), sign) for line in lines]

    def stats(name: str) -> list[Stat]:
        return [line.stat(name) for line in lines]

    paper_accuracy = paper(lambda p: _points(p.accuracy))
    paper_delta = paper(lambda p: "" if p.delta is None else _points(p.delta, "+"))
    optional = [
        Column("depths", [_depths(line) for line in lines], "found"),
        Column("paper: depths", paper(lambda p: format_depths(p.depths)), "found"),
        Column("accuracy %", [_accuracy(line) for line in lines], "found", "point"),
        Column("paper: accuracy", paper_accuracy, "found", "point"),
        Column("from scratch %", scratch("baseline", ""), "scratch", "point"),
        Column("delta", scratch("delta", "+"), "scratch", "point"),
        Column("paper: delta", paper_delta, "scratch", "point"),
        _numbers("epochs", stats("epochs"), whole=True),
        _scaled("forward FLOP", stats("flops")),
        _scaled("training FLOP", stats("training_flops")),
        _numbers("seconds", stats("seconds")),
        _numbers("parameters", stats("num_params"), whole=True),
    ]
    return names + [column for column in optional if set(column.cells) != {_NOTHING}]


def make_remarks(table: Table) -> list[str]:
    """Says what is missing from which line, and why."""
    return [f"{line.label}: {remark}" for line in table.lines for remark in _remarks(line)]


def _remarks(line: Line) -> list[str]:
    # A baseline whose net was never found has nothing of its own to say.
    pairs = zip(line.records, line.baselines, strict=False)
    baselines = [b for found, b in pairs if found.state == "done" or b.state != "missing"]
    remarks = []
    for records, prefix in ((line.records, ""), (baselines, "from scratch, ")):
        for record in records:
            seed = f"{prefix}seed {record.cell.seed}"
            if record.state == "failed":
                remarks.append(f"{seed} failed: {record.reason}")
            elif record.state == "done" and record.accuracy is None:
                remarks.append(f"{seed}: its accuracy is not a number")
        missing = sum(record.state == "missing" for record in records)
        if missing:
            remarks.append(f"{prefix}not run yet ({missing} of {len(line.records)} seeds)")
    return remarks


# --- Cells.


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
    rounded = round(value, 2) + 0.0  # What rounds to zero loses its minus.
    return f"{rounded:{sign}.2f}"


def _scaled(header: str, stats: Sequence[Stat]) -> Column:
    """Numbers in the unit of the smallest of them: "forward FLOP" to "forward MFLOP"."""
    smallest = min((s.mean for s in stats if s.mean), default=1.0)
    scale, prefix = next((pair for pair in _PREFIXES if smallest >= pair[0]), _PREFIXES[-1])
    scaled = [Stat(tuple(value / scale for value in stat.values)) for stat in stats]
    return _numbers(header.replace("FLOP", f"{prefix}FLOP"), scaled)


def _numbers(header: str, stats: Sequence[Stat], *, whole: bool = False) -> Column:
    """Means, all with so many decimals that the smallest has three figures, two at most."""
    means = [stat.mean for stat in stats]
    smallest = min((abs(mean) for mean in means if mean is not None), default=0.0)
    decimals = 0 if whole or smallest >= 100 else 1 if smallest >= 10 else 2
    cells = [_NOTHING if mean is None else f"{mean:,.{decimals}f}" for mean in means]
    return Column(header, cells, "cost", "right")


# --- Sentences.


def describe(tables: Sequence[Table]) -> tuple[list[str], list[list[str]]]:
    """Says which split steered, how many seeds there are, on which machine, with which versions.

    Returns:
      The sentences that hold of all tables, and for each table those that hold of it alone.
    """
    about = [_describe(table) for table in tables]
    kinds = dict.fromkeys(kind for sentences in about for kind in sentences)
    common = {
        kind: texts.pop()
        for kind in kinds
        for texts in [{sentences[kind] for sentences in about if kind in sentences}]
        if len(texts) == 1
    }
    own = [[text for kind, text in each.items() if kind not in common] for each in about]
    return list(common.values()), own


def _describe(table: Table) -> dict[str, str]:
    """Sentences about the numbers of a table, by what they are about."""
    runs = list({r.cell.name: r for r in table.records if r.state == "done"}.values())
    sentences: dict[str, str] = {}
    if runs:
        steered = _tally(record.validation or "unknown" for record in runs)
        sentences["split"] = " ".join(
            _protocol(validation, {r.num_validation for r in runs if r.validation == validation})
            + count
            for validation, count in steered
        )
    if any(line.published for line in table.lines):
        sentences["paper"] = (
            "The paper's numbers are of one seed, on the test set that steered its growth, the best"
            " of all epochs."
        )
    seeds = ", ".join(map(str, table.seeds))
    sentences["seeds"] = (
        f"Seed {seeds} alone, so nothing is said of the spread."
        if len(table.seeds) == 1
        else f"Seeds {seeds}; ± is the sample standard deviation over those that are done (n="
        " says how many, where not all are)."
    )
    if not runs:
        return sentences
    if any(line.baselines for line in table.lines):
        sentences["delta"] = (
            "Delta: accuracy less that of the net that the same seed found, trained from scratch,"
            " in points."
        )
    sentences["cost"] = (
        "Epochs, FLOPs, seconds and parameters are means over the seeds that are done, without the"
        " runs from scratch beside them. A multiply-add of convolutions and the linear layer is two"
        " FLOPs: forward, of one image; training, three times that for each image of each epoch, at"
        " the depths of that epoch. Seconds include compiling, on a machine that may have done"
        " other work at the same time, other runs of this study too."
    )
    machines = _tally(record.machine or "unknown" for record in runs)
    sentences["machine"] = f"Machine{'s' if len(machines) > 1 else ''}: {_list(machines)}."
    sentences["versions"] = f"Versions: {_list(_tally(map(_versions, runs)))}."
    return sentences


def _protocol(validation: str, numbers: set[int | None]) -> str:
    """What steered growth, with the number of images where all runs had the same."""
    images = describe_validation(validation, numbers.pop() if len(numbers) == 1 else None)
    if validation == "test":
        end = "the best of all epochs on it, as the paper reports it."
    else:
        end = "on the test set, looked at once, with the final weights."
    return f"Growth was steered by {images}; accuracy is {end}"


def _versions(record: Record) -> str:
    named = [f"{name} {record.versions[name]}" for name in _VERSIONS if name in record.versions]
    return ", ".join(named) or "unknown"


def _tally(values: Iterable[str]) -> list[tuple[str, str]]:
    """Each value once, with " (5 runs)" where there are several values."""
    counts = Counter(values)
    return [
        (value, f" ({count} {'run' if count == 1 else 'runs'})" if len(counts) > 1 else "")
        for value, count in counts.items()
    ]


def _list(tally: Iterable[tuple[str, str]]) -> str:
    return "; ".join(value + count for value, count in tally)
