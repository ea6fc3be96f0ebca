"""What became of a study's cells, and the lines of its tables: numbers only, nothing is laid out.

Everything is read from the cells' folders, so a table can be made at any time from whatever has
finished.
"""

import dataclasses
import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from autogrow_jax import build
from autogrow_jax.errors import UserError
from autogrow_jax.models import estimate_cost
from autogrow_jax.reporting import Workdir, metrics
from autogrow_jax.studies import Row, Section
from autogrow_jax.studies.cells import Cell, Entry, Folder, State

# Of a `Record`: what CSV and JSON have beside accuracies.
_NUMBERS = (
    *("blocks", "epochs", "growth_epochs", "num_params"),
    *("flops", "training_flops", "seconds", "compile_seconds"),
)
# The usual estimate: the gradients with respect to the input and to the weights each take as many
# multiply-adds as the forward pass.
_TRAINING_PASSES = 3


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
    epochs: int | None = None
    growth_epochs: int | None = None  # Those of `epochs` in the growth phase.
    num_params: int | None = None
    flops: int | None = None  # Of one image forward; two for each multiply-add.
    training_flops: float | None = None  # Of the whole run, each epoch at its depths.
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
        """Over the seeds that are done, of a number of `Record` such as "accuracy"."""
        return _stat(getattr(record, name) for record in self.records)

    @property
    def baseline(self) -> Stat:
        """Accuracy in percent of the found nets trained from scratch."""
        return _stat(record.accuracy for record in self.baselines)

    @property
    def delta(self) -> Stat:
        """Accuracy less that of the same seed's net from scratch, in points."""
        pairs = zip(self.records, self.baselines, strict=False)
        accuracies = ((found.accuracy, scratch.accuracy) for found, scratch in pairs)
        return _stat(a - b for a, b in accuracies if a is not None and b is not None)

    @property
    def stats(self) -> dict[str, Stat]:
        """What CSV and JSON have as mean and standard deviation."""
        numbers = {name: self.stat(name) for name in ("accuracy", *_NUMBERS)}
        return numbers | {"scratch_accuracy": self.baseline, "delta": self.delta}


def _stat(values: Iterable[float | None]) -> Stat:
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
    sections: dict[str, Section] = {}
    lines: dict[str, list[Line]] = {}
    for entry in entries:
        both = (tuple(records[cell.name] for cell in of) for of in (entry.cells, entry.baselines))
        sections[entry.section.title] = entry.section
        lines.setdefault(entry.section.title, []).append(Line(entry.row, *both))
    return [Table(section, tuple(lines[title])) for title, section in sections.items()]


def read_record(cell: Cell, workdir: Path) -> Record:
    """Reads what became of one cell."""
    folder = Folder(workdir, cell)
    error = folder.why_failed()
    if error:
        return Record(cell, "failed", error)
    try:
        result = folder.result()
        if result is None:
            return Record(cell, "missing")
        return _read_done(cell, result, metrics.read(Workdir(folder.run).metrics))
    except (UserError, KeyError, TypeError) as problem:
        return Record(cell, "failed", f"{folder.run} cannot be read: {problem}")


def _read_done(cell: Cell, result: dict[str, Any], lines: list[dict[str, Any]]) -> Record:
    validation = str(result["validation"])
    best, tested = result["best_validation_accuracy"], result["test_accuracy"]
    depths = tuple(result["depths"])
    image_shape = tuple(result["image_shape"])
    settings = build.resolve(cell.settings)
    network = build.make_network(settings, result["num_classes"], image_shape[-1], depths)
    passes = [
        estimate_cost(network, image_shape, tuple(line["depths"])).flops * line["train_images"]
        for line in lines
        if "train_images" in line
    ]
    return Record(
        cell,
        "done",
        depths=depths,
        accuracy=best if validation == "test" else tested,
        test_accuracy=tested,
        best_validation_accuracy=best,
        validation=validation,
        num_validation=result.get("validation_examples"),
        epochs=result["epochs"],
        growth_epochs=result.get("growth_epochs"),
        num_params=result["num_params"],
        flops=estimate_cost(network, image_shape).flops,
        training_flops=_TRAINING_PASSES * math.fsum(passes) if len(passes) == len(lines) else None,
        seconds=result["seconds"]["total"],
        compile_seconds=result["seconds"]["compile"],
        machine=describe_machine(result.get("devices") or {}),
        versions=result["versions"],
    )


def describe_machine(devices: dict[str, Any]) -> str:
    """The device of a result.json in words: "2 x NVIDIA H200" or "AMD EPYC 9B14, 2 cores"."""
    if devices.get("platform") == "cpu":
        processor, cores = devices.get("processor") or "CPU", devices.get("cores")
        words = f"{processor}, {cores} {'core' if cores == 1 else 'cores'}" if cores else processor
        count = devices.get("count", 1)
        return words if count == 1 else f"{words} as {count} devices"
    return f"{devices.get('count', 1)} x {devices.get('kind', 'unknown device')}"
