"""What is said beside a table: what is missing and why, and what its numbers are and come from.

Everything a reader needs in order to trust the numbers is a sentence of `describe`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from autogrow_jax.reporting.result import describe_validation
from autogrow_jax.studies.records import Line, Record, Table

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
    texts: dict[str, set[str]] = {}
    for kind, text in (pair for sentences in about for pair in sentences.items()):
        texts.setdefault(kind, set()).add(text)
    common = {kind: min(of) for kind, of in texts.items() if len(of) == 1}
    own = [[text for kind, text in each.items() if kind not in common] for each in about]
    return list(common.values()), own


def _describe(table: Table) -> dict[str, str]:
    """Sentences about the numbers of a table, by what they are about."""
    runs = list({r.cell.name: r for r in table.records if r.state == "done"}.values())
    sentences: dict[str, str] = {}
    if runs:
        steered = _tally(record.validation or "unknown" for record in runs)
        sentences["split"] = " ".join(_protocol(how, runs) + count for how, count in steered)
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
        machines = _tally(record.machine or "unknown" for record in runs)
        sentences["cost"] = _COST
        sentences["machine"] = f"Machine{'s' if len(machines) > 1 else ''}: {_list(machines)}."
        sentences["versions"] = f"Versions: {_list(_tally(map(_versions, runs)))}."
    return sentences


def _protocol(validation: str, runs: Iterable[Record]) -> str:
    """What steered growth, with the number of images where all runs had the same."""
    numbers = {run.num_validation for run in runs if run.validation == validation}
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
