"""What a table of a study says, as columns of short texts; `tables.py` lays them out in files.

Everything a reader needs in order to trust the numbers is a sentence of `describe`: which split
steered, how many seeds, which machine and versions.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

from autogrow_jax.reporting.result import describe_validation, format_depths
from autogrow_jax.studies.records import Line, Record, Stat, Table

__all__ = ["NOTHING", "Column", "Grid", "describe", "failure", "make_grid"]

NOTHING = "-"

Group = Literal["name", "found", "scratch", "cost"]
Align = Literal["left", "right", "point"]

_PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
_VERSIONS = ("autogrow_jax", "jax", "jaxlib", "flax", "optax", "python")


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of texts.

    Attributes:
      header: may be broken at its spaces.
      cells: one a line of the table.
      group: columns of one group belong side by side.
      align: at the left, at the right, or at the decimal point.
    """

    header: str
    cells: tuple[str, ...]
    group: Group
    align: Align = "left"


@dataclasses.dataclass(frozen=True)
class Grid:
    """A table as texts.

    Attributes:
      columns: those that say something.
      remarks: for each line what is missing from it, and why; may be empty.
    """

    columns: tuple[Column, ...]
    remarks: tuple[tuple[str, ...], ...]


def make_grid(table: Table) -> Grid:
    """The columns of a table, without those in which no line has anything."""
    lines = table.lines
    columns = [
        Column(name, tuple(line.names[i] for line in lines), "name")
        for i, name in enumerate(table.section.columns)
    ]
    paper = [line.published for line in lines]
    num_baselines = [len(line.baselines) for line in lines]
    optional = [
        Column("depths", tuple(_depths(line) for line in lines), "found"),
        Column(
            "paper: depths",
            tuple(format_depths(p.depths) if p and p.depths else NOTHING for p in paper),
            "found",
        ),
        Column("accuracy %", tuple(_accuracy(line) for line in lines), "found", "point"),
        Column(
            "paper: accuracy",
            tuple(_points(p.accuracy) if p else NOTHING for p in paper),
            "found",
            "point",
        ),
        Column(
            "from scratch %",
            tuple(map(_stat, (line.baseline for line in lines), num_baselines)),
            "scratch",
            "point",
        ),
        Column(
            "delta",
            tuple(map(_signed, (line.delta for line in lines), num_baselines)),
            "scratch",
            "point",
        ),
        Column(
            "paper: delta",
            tuple(_points(p.delta, "+") if p and p.delta is not None else NOTHING for p in paper),
            "scratch",
            "point",
        ),
        _numbers("epochs", [line.stat("epochs") for line in lines], whole=True),
        _scaled("forward FLOP", [line.stat("flops") for line in lines]),
        _scaled("training FLOP", [line.stat("training_flops") for line in lines]),
        _numbers("seconds", [line.stat("seconds") for line in lines]),
        _numbers("parameters", [line.stat("num_params") for line in lines], whole=True),
    ]
    columns += [column for column in optional if any(cell != NOTHING for cell in column.cells)]
    return Grid(tuple(columns), tuple(_remarks(line) for line in lines))


def describe(tables: Sequence[Table]) -> tuple[list[str], list[list[str]]]:
    """What holds of the numbers: sentences.

    Returns:
      Those that hold of all tables, and for each table those that hold of it alone.
    """
    about = [_describe(table) for table in tables]
    common: list[str] = []
    own: list[list[str]] = [[] for _ in tables]
    for kind in dict.fromkeys(kind for sentences in about for kind in sentences):
        texts = [sentences[kind] for sentences in about if kind in sentences]
        if len(set(texts)) == 1:
            common.append(texts[0])
        else:
            for sentences, list_ in zip(about, own, strict=True):
                list_ += [sentences[kind]] if kind in sentences else []
    return common, own


def failure(record: Record) -> str:
    """The first line of why a cell failed."""
    lines = (line.strip() for line in record.error.splitlines())
    return next((line for line in lines if line), "no reason was kept")


# --- Cells.


def _depths(line: Line) -> str:
    names = [format_depths(record.depths) for record in line.done if record.depths]
    if len(set(names)) == 1:
        return names[0]
    return ", ".join(names) or NOTHING


def _accuracy(line: Line) -> str:
    stat = line.stat("accuracy")
    if not stat.values and any(record.state == "failed" for record in line.records):
        return "failed"
    return _stat(stat, len(line.records))


def _stat(stat: Stat, expected: int, sign: str = "") -> str:
    """ "91.20 ± 0.31", with the number of values where it is less than `expected`."""
    if stat.mean is None:
        return NOTHING
    text = _points(stat.mean, sign)
    if stat.std is not None:
        text += f" ± {stat.std:.2f}"
    return text if len(stat.values) == expected else f"{text} (n={len(stat.values)})"


def _signed(stat: Stat, expected: int) -> str:
    return _stat(stat, expected, "+")


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
    cells = (NOTHING if mean is None else f"{mean:,.{decimals}f}" for mean in means)
    return Column(header, tuple(cells), "cost", "right")


def _remarks(line: Line) -> tuple[str, ...]:
    remarks = _remarks_of(line.records, len(line.records), "")
    # A baseline whose net was never found has nothing of its own to say.
    pairs = zip(line.records, line.baselines, strict=False)
    baselines = [b for found, b in pairs if found.state == "done" or b.state != "missing"]
    return (*remarks, *_remarks_of(baselines, len(line.baselines), "from scratch, "))


def _remarks_of(records: Sequence[Record], num_seeds: int, prefix: str) -> list[str]:
    remarks = []
    for record in records:
        seed = f"{prefix}seed {record.cell.seed}"
        if record.state == "failed":
            remarks.append(f"{seed} failed: {failure(record)}")
        elif record.state == "done" and record.accuracy is None:
            remarks.append(f"{seed}: its accuracy is not a number")
    missing = sum(record.state == "missing" for record in records)
    if missing:
        remarks.append(f"{prefix}not run yet ({missing} of {num_seeds} seeds)")
    return remarks


# --- Sentences.


def _describe(table: Table) -> dict[str, str]:
    """Sentences about the numbers of a table, by what they are about."""
    runs = list({r.cell.name: r for r in table.records if r.state == "done"}.values())
    sentences: dict[str, str] = {}
    if runs:
        sentences["split"] = " ".join(
            _protocol(validation) + count
            for validation, count in _tally(r.validation or "unknown" for r in runs)
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
    for kind, values in (
        ("Machine", [record.machine or "unknown" for record in runs]),
        ("Versions", [_versions(record) for record in runs]),
    ):
        tally = list(_tally(values))
        word = kind if len(tally) == 1 or kind.endswith("s") else f"{kind}s"
        sentences[kind] = f"{word}: {'; '.join(value + count for value, count in tally)}."
    return sentences


def _protocol(validation: str) -> str:
    if validation == "test":
        return (
            f"Growth was steered by {describe_validation(validation)}; accuracy is the best of all"
            " epochs on it, as the paper reports it."
        )
    try:
        images = describe_validation(float(validation))
    except ValueError:
        images = f"{describe_validation(validation)} images"
    return (
        f"Growth was steered by {images}; accuracy is on the test set, looked at once, with the"
        " final weights."
    )


def _versions(record: Record) -> str:
    named = [f"{name} {record.versions[name]}" for name in _VERSIONS if name in record.versions]
    return ", ".join(named) or "unknown"


def _tally(values: Iterable[str]) -> Iterable[tuple[str, str]]:
    """Each value once, with " (5 runs)" where there are several values."""
    counts = Counter(values)
    for value, count in counts.items():
        yield value, f" ({count} {'run' if count == 1 else 'runs'})" if len(counts) > 1 else ""
