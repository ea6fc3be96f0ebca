"""Growth against a sweep, successive halving and Optuna: the table and figure of a study's runs.

python -m benchmarks.answer --study=configs/studies/answer_small.py --workdir=runs/answer_small \\
    --out=results/answer/small

Reads what `python -m autogrow_jax.studies` left of `configs/studies/answer.py` or
`answer_small.py`, and what has run of it so far. Nets that are trained from scratch by the same
recipe and seed are the same whoever trains them, so a sweep, halving whose rungs go on, and
Optuna's trials are played back from those nets' own curves, epoch by epoch: exact, but for the
seconds, in which a net's start and compilation count once. Writes `table.md`, `table.json`,
`answer.png` and `answer.svg`. With `--add` a method and seed that has not run in the workdir stays
as `table.json` of the same folder has it, such as from another machine.
"""

import argparse
import importlib.util
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from autogrow_jax.process import user_path
from autogrow_jax.reporting import Workdir, metrics, replace_file, to_json
from autogrow_jax.settings_files import load_study, take_changes
from autogrow_jax.studies import Study
from autogrow_jax.studies.cells import Cell, Entry, Folder, expand
from autogrow_jax.studies.records import Record, read_record
from benchmarks.answer_figure import draw
from benchmarks.answer_tables import (
    CONVERGENT,
    DEFAULT,
    FIXED,
    HALVING,
    OPTUNA,
    PERIODIC,
    SWEEP,
    Outcome,
    describe_aim,
    format_table,
    read_table,
    summarize,
)
from benchmarks.depth_search import Found, Train, halve, optuna_search, sweep

_NAMES = {
    "default": DEFAULT,
    "periodic": PERIODIC,
    "convergent": CONVERGENT,
    "3": FIXED,
}
# As many as there are depths.
_TRIALS = 6


class Net(NamedTuple):
    """A net from scratch: its record, and of each epoch accuracy on validation, and seconds."""

    record: Record
    accuracies: list[float]
    seconds: list[float]

    def flops_of(self, epochs: int) -> float:
        """Training FLOPs of its first epochs, all of which cost the same."""
        return (self.record.training_flops or 0.0) * epochs / len(self.accuracies)

    def seconds_of(self, epochs: int) -> float:
        """Seconds of its first epochs, with all that is no epoch; 0 of a net not begun."""
        rest = (self.record.seconds or 0.0) - sum(self.seconds)
        return rest + sum(self.seconds[:epochs]) if epochs else 0.0


def read_outcomes(entries: Sequence[Entry], workdir: Path) -> list[Outcome]:
    """What all methods answered on one set, of the seeds that are done so far.

    Args:
      entries: the rows of a section.
      workdir: of the study.
    """
    outcomes: list[Outcome] = []
    nets: dict[int, list[Net]] = {}
    whole = sum(entry.row.names[0].isdigit() for entry in entries)
    for entry in entries:
        (name,) = entry.row.names
        for cell in entry.cells:
            record = read_record(cell, workdir)
            if record.state != "done":
                if record.state == "failed":
                    print(f"left out: {cell.label}: {record.reason}", file=sys.stderr)
                continue
            if record.training_flops is None:
                why = "its metrics.jsonl lacks epochs, or is of an older version"
                print(f"left out: {cell.label}: {why}", file=sys.stderr)
                continue
            if name.isdigit():
                lines = metrics.read(Workdir(Folder(workdir, cell).run).metrics)
                curve = [line["validation_accuracy"] for line in lines]
                net = Net(record, curve, [line["seconds"] for line in lines])
                nets.setdefault(cell.seed, []).append(net)
            method = _NAMES.get(name, f"from scratch, {name} a stage")
            outcomes.append(_outcome(method, record))
    for seed, found in nets.items():
        if len(found) == whole:
            found.sort(key=lambda net: net.record.flops or 0)
            outcomes += [_play(name, search, found, seed) for name, search in _searches(found)]
    return outcomes


def _searches(nets: Sequence[Net]) -> list[tuple[str, Callable[[Train, int], Found]]]:
    """What users do, each as a function of how to train and of the seed."""
    number, epochs = len(nets), len(nets[0].accuracies)
    images = nets[0].record.num_validation or 1
    found: list[tuple[str, Callable[[Train, int], Found]]] = [
        (SWEEP, lambda train, seed: sweep(train, number, epochs, images)),
        (HALVING, lambda train, seed: halve(train, number, epochs)),
    ]
    if importlib.util.find_spec("optuna"):
        found.append((OPTUNA, lambda train, s: optuna_search(train, number, epochs, _TRIALS, s)))
    return found


def _play(
    name: str, search: Callable[[Train, int], Found], nets: Sequence[Net], seed: int
) -> Outcome:
    found = search(lambda place, epoch: nets[place].accuracies[epoch], seed)
    pairs = list(zip(nets, found.epochs, strict=True))
    return _outcome(name, nets[found.place].record)._replace(
        training_flops=sum(net.flops_of(epochs) for net, epochs in pairs),
        seconds=sum(net.seconds_of(epochs) for net, epochs in pairs),
    )


def _outcome(method: str, record: Record) -> Outcome:
    numbers = "training_flops", "seconds", "num_params", "flops", "num_test"
    known: dict[str, Any] = {name: getattr(record, name) for name in numbers}
    accuracy = record.test_accuracy or 0.0
    return Outcome(method, record.cell.seed, record.depths or (), accuracy, **known)


def add_to(before: Sequence[Outcome], outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Puts outcomes in the place of earlier ones of their method and seed, or among their kind."""
    added = {(outcome.method, outcome.seed): outcome for outcome in (*before, *outcomes)}
    methods = list(dict.fromkeys(method for method, _ in added))
    methods.sort(key=lambda m: (not m.startswith("growth"), not m.startswith("from scratch")))
    return sorted(added.values(), key=lambda o: (methods.index(o.method), o.seed))


def make_parser(program: str, description: str | None) -> argparse.ArgumentParser:
    """Makes the parser of a command that reads what has run of such a study."""
    parser = argparse.ArgumentParser(prog=program, description=description)
    parser.add_argument("--study", default="configs/studies/answer.py")
    parser.add_argument("--workdir", default="runs/answer")
    parser.add_argument("--seeds", default="", help="instead of the study's own, as 0,1,2")
    parser.add_argument("--out", default="results/answer/whole")
    return parser


def read_options(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None
) -> tuple[argparse.Namespace, Study, list[Cell], list[Entry]]:
    """Reads the options, and the study that they name with its cells."""
    given, changes = take_changes(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    study = load_study(options.study)
    seeds = [int(seed) for seed in options.seeds.split(",") if seed]
    return options, study, *expand(study, changes, seeds)


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes table and figure; status 1 where nothing has run yet."""
    parser = make_parser("benchmarks.answer", __doc__)
    parser.add_argument("--add", action="store_true", help="to what table.json has already")
    options, study, cells, entries = read_options(parser, arguments)
    workdir, out = user_path(options.workdir), user_path(options.out)
    table = out / "table.json"
    before = read_table(table) if options.add and table.exists() else {}
    found = {
        section.title: read_outcomes([e for e in entries if e.section is section], workdir)
        for section in study.sections
    }
    if not any(found.values()):
        print(f"nothing of {options.study} has run in {workdir} yet", file=sys.stderr)
        return 1
    parts, content, panels, done = [], {}, {}, 0
    seeds = {cell.seed for cell in cells}
    for title in dict.fromkeys((*before, *found)):
        if not (outcomes := add_to(before.get(title, ()), found.get(title, ()))):
            continue
        own = [o for o in outcomes if title in found and o.seed in seeds]
        done += sum(o.method.startswith(("growth", "from scratch")) for o in own)
        lines = panels[title] = summarize(outcomes)
        parts += [f"## {title}", format_table(lines), describe_aim(lines)]
        content[title] = [outcome._asdict() for outcome in outcomes]
    parts.insert(0, f"{study.title}: {done} of {len(cells)} runs are done.")
    replace_file(out / "table.md", ("\n\n".join(parts) + "\n").encode())
    replace_file(table, (to_json(content, "table", indent=1) + "\n").encode())
    draw(panels, out)
    print("\n\n".join(parts))
    print(f"\nwrote {shlex.quote(str(out))}/table.md, table.json, answer.png, answer.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
