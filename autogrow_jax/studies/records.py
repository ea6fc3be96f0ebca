"""What became of a study's cells, and the lines of its tables: the numbers, and as CSV and JSON.

Everything is read from the cells' folders, so a table can be made at any time from whatever has
finished.
"""

import csv
import dataclasses
import io
import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from autogrow_jax import build
from autogrow_jax.errors import UserError
from autogrow_jax.models import estimate_cost
from autogrow_jax.reporting import Workdir, metrics, to_json
from autogrow_jax.reporting.numbers import format_depths
from autogrow_jax.reporting.result import describe_machine
from autogrow_jax.studies import Row, Section
from autogrow_jax.studies.cells import Cell, Entry, Folder, State

# What there is a mean of: numbers of a `Record`; accuracy of the nets trained from scratch, and how
# far that of the nets that grew lies above it.
STATS = (
    *("accuracy", "blocks", "epochs", "growth_epochs", "num_params"),
    *("flops", "training_flops", "seconds", "compile_seconds", "scratch_accuracy", "delta"),
)
# The usual estimate: the gradients with respect to the input and to the weights each take as many
# multiply-adds as the forward pass.
_TRAINING_PASSES = 3
# Of result.json.
_AS_THEY_ARE = "test_accuracy", "best_validation_accuracy", "epochs", "num_params", "versions"


@dataclasses.dataclass(frozen=True)
class Record:
    """What became of a cell. All numbers are None where it is not done; accuracies are in percent.

    What is reported, `accuracy`, is that on the test set with the final weights; under the paper's
    protocol, where the test set steered growth, it is the best of all epochs.
    """

    cell: Cell
    state: State
    error: str = ""
    depths: tuple[int, ...] | None = None
    accuracy: float | None = None
    test_accuracy: float | None = None  # Of the final weights.
    best_validation_accuracy: float | None = None
    validation: str | None = None  # What steered: "held-out", "test" or a fraction.
    num_validation: int | None = None  # Images of it.
    num_test: int | None = None
    epochs: int | None = None
    growth_epochs: int | None = None  # Those of `epochs` in the growth phase.
    num_params: int | None = None
    flops: int | None = None  # Of one image forward; two for each multiply-add.
    # Of all epochs at their depths; what `adam` pre-trains new blocks for is not counted.
    training_flops: float | None = None
    seconds: float | None = None  # Of the whole run; the machine may have done other things too.
    compile_seconds: float | None = None  # Those of `seconds` spent compiling.
    machine: str | None = None  # Device and processor, in words.
    versions: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def blocks(self) -> int | None:
        """In all stages together."""
        return None if self.depths is None else sum(self.depths)

    @property
    def reason(self) -> str:
        """The first line of why it failed."""
        lines = (line.strip() for line in self.error.splitlines())
        return next((line for line in lines if line), "no reason was kept")


@dataclasses.dataclass(frozen=True)
class Stat:
    """Mean and sample standard deviation of what several seeds gave, None of too few values."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.values) if self.values else None

    @property
    def std(self) -> float | None:
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def to_dict(self) -> dict[str, Any]:
        return {"mean": self.mean, "std": self.std, "n": len(self.values), "values": self.values}


@dataclasses.dataclass(frozen=True)
class Line:
    """A row of the study over its seeds: what became of its cells, and of its baselines."""

    row: Row
    records: tuple[Record, ...]
    baselines: tuple[Record, ...] = ()

    @property
    def failed(self) -> list[Record]:
        return [r for r in (*self.records, *self.baselines) if r.state == "failed"]

    def stat(self, name: str) -> Stat:
        """Over the seeds that are done, of one of `STATS`."""
        if name == "scratch_accuracy":
            values = [record.accuracy for record in self.baselines]
        elif name == "delta":  # Against the same seed's.
            pairs = zip(self.records, self.baselines, strict=False)
            both = [(found.accuracy, scratch.accuracy) for found, scratch in pairs]
            values = [a - b for a, b in both if a is not None and b is not None]
        else:
            values = [getattr(record, name) for record in self.records]
        return Stat(tuple(float(value) for value in values if value is not None))


@dataclasses.dataclass(frozen=True)
class Table:
    """A section with its lines."""

    section: Section
    lines: tuple[Line, ...]

    @property
    def seeds(self) -> list[int]:
        return [record.cell.seed for record in self.lines[0].records]

    @property
    def records(self) -> list[Record]:
        return [r for line in self.lines for r in (*line.records, *line.baselines)]


def collect(entries: Sequence[Entry], workdir: Path) -> list[Table]:
    """Makes the tables of a study from whatever its cells have left in its workdir."""
    cells = {cell.name: cell for entry in entries for cell in (*entry.cells, *entry.baselines)}
    records = {name: read_record(cell, workdir) for name, cell in cells.items()}
    lines: dict[str, list[Line]] = {}
    for entry in entries:
        both = (tuple(records[cell.name] for cell in of) for of in (entry.cells, entry.baselines))
        lines.setdefault(entry.section.title, []).append(Line(entry.row, *both))
    sections = {entry.section.title: entry.section for entry in entries}
    return [Table(sections[title], tuple(of)) for title, of in lines.items()]


def read_record(cell: Cell, workdir: Path) -> Record:
    """Reads what became of one cell."""
    folder = Folder(workdir, cell)
    if error := folder.why_failed():
        return Record(cell, "failed", error)
    try:
        result = folder.result()
        if result is None:
            return Record(cell, "missing")
        lines = metrics.read(Workdir(folder.run).metrics)
        settings = build.resolve(cell.settings, to_read=True)
        validation, shape = str(result["validation"]), tuple(result["image_shape"])
        best = result["best_validation_accuracy"]
        net = result["num_classes"], shape[-1], tuple(result["depths"])
        network = build.make_network(settings, *net)
        passes = [
            estimate_cost(network, shape, tuple(line["depths"])).flops * line["train_images"]
            for line in lines
            if "train_images" in line
        ]
        is_whole = len(passes) == len(lines) == result["epochs"]
        return Record(
            cell,
            "done",
            **{name: result[name] for name in _AS_THEY_ARE},
            depths=network.depths,
            accuracy=best if validation == "test" else result["test_accuracy"],
            validation=validation,
            num_validation=result.get("validation_examples"),
            num_test=result.get("test_examples"),
            growth_epochs=result.get("growth_epochs"),
            flops=estimate_cost(network, shape).flops,
            training_flops=_TRAINING_PASSES * math.fsum(passes) if is_whole else None,
            seconds=result["seconds"]["total"],
            compile_seconds=result["seconds"]["compile"],
            machine=describe_machine(result.get("devices") or {}),
        )
    except (UserError, KeyError, TypeError) as problem:
        return Record(
            cell,
            "failed",
            f"{folder.run} cannot be read: {problem}; delete {folder.root}, and it is run anew",
        )


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
    published, records = line.row.published, line.records
    stats = {name: line.stat(name) for name in STATS}
    fields: dict[str, Any] = {
        "section": table.section.title,
        "row": line.row.label,
        "seeds": " ".join(map(str, table.seeds)),
        "num_seeds": len(records),
        "n": len(stats["accuracy"].values),
        "scratch_n": len(stats["scratch_accuracy"].values),
        "delta_n": len(stats["delta"].values),
        "is_found": line.row.found,
        "found_depths": " ".join(format_depths(r.depths) if r.depths else "-" for r in records),
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
        **{name: line.stat(name).to_dict() for name in STATS},
        "runs": [dataclasses.asdict(record) for record in line.records],
        "runs_from_scratch": [dataclasses.asdict(record) for record in line.baselines],
    }
