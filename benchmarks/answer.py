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
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from autogrow_jax.growth import standard_error
from autogrow_jax.process import user_path
from autogrow_jax.reporting import Workdir, metrics, replace_file, to_json
from autogrow_jax.reporting.numbers import format_depths
from autogrow_jax.settings_files import load_study, take_changes
from autogrow_jax.studies import Study
from autogrow_jax.studies.cells import Cell, Entry, Folder, expand
from autogrow_jax.studies.records import Record, read_record
from benchmarks.answer_figure import draw
from benchmarks.depth_search import Found, Train, halve, optuna_search, sweep

SWEEP, DEFAULT = "sweep, one standard error", "growth, the default"
_NAMES = {
    "default": DEFAULT,
    "periodic": "growth, the paper's periodic",
    "convergent": "growth, the paper's convergent",
    "3": "from scratch, the fixed 3 a stage",
}
# Of grown nets; all else is the same for all.
_DIFFERS = "growth comes before, at a constant rate"
# As many as there are depths.
_TRIALS = 6


class Outcome(NamedTuple):
    """What a method answered with one seed, and all that was spent on the answer.

    Accuracy is in percent, on the test set; `training_flops` are three times the forward FLOPs for
    each image of each epoch; `flops` those of the net, forward, of one image.
    """

    method: str
    seed: int
    depths: tuple[int, ...]
    test_accuracy: float
    training_flops: float
    seconds: float
    num_params: int
    flops: int
    num_test: int = 0  # Images of the test set; 0 in older tables.


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
        ("successive halving", lambda train, seed: halve(train, number, epochs)),
    ]
    if importlib.util.find_spec("optuna"):
        tpe = "Optuna, TPE and Hyperband"
        found.append((tpe, lambda train, s: optuna_search(train, number, epochs, _TRIALS, s)))
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


def _read_table(path: Path) -> dict[str, list[Outcome]]:
    """The outcomes of each section that `table.json` has."""
    content = json.loads(path.read_text())
    return {
        title: [Outcome(**each | {"depths": tuple(each["depths"])}) for each in outcomes]
        for title, outcomes in content.items()
    }


class Line(NamedTuple):
    """A method over its seeds; `of_sweep` is its cost as a part of the sweep's, seed by seed."""

    method: str
    outcomes: list[Outcome]
    of_sweep: float | None

    def mean(self, name: str) -> float:
        return fmean(getattr(outcome, name) for outcome in self.outcomes)

    def deviation(self, name: str) -> float:
        """The sample standard deviation, 0 of one seed."""
        values = [getattr(outcome, name) for outcome in self.outcomes]
        return stdev(values) if len(values) > 1 else 0.0


def summarize(outcomes: Sequence[Outcome]) -> list[Line]:
    """A line for each method, in the order in which they come."""
    swept = {o.seed: o.training_flops for o in outcomes if o.method == SWEEP}
    lines = []
    for method in dict.fromkeys(outcome.method for outcome in outcomes):
        own = [outcome for outcome in outcomes if outcome.method == method]
        parts = [o.training_flops / swept[o.seed] for o in own if o.seed in swept]
        lines.append(Line(method, own, fmean(parts) if parts else None))
    return lines


def format_table(lines: Sequence[Line]) -> str:
    """The table in Markdown."""
    rows = [
        "| method | seeds | depths | test accuracy % | training GFLOP | of the sweep's | seconds"
        " | parameters | MFLOP of the net | differs in |",
        "|---|---:|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for line in lines:
        depths = ", ".join(dict.fromkeys(format_depths(o.depths) for o in line.outcomes))
        spread = f" ± {line.deviation('test_accuracy'):.2f}" if len(line.outcomes) > 1 else ""
        part = "" if line.of_sweep is None else f"{100 * line.of_sweep:.0f} %"
        rows.append(
            f"| {line.method} | {len(line.outcomes)} | {depths}"
            f" | {line.mean('test_accuracy'):.2f}{spread}"
            f" | {line.mean('training_flops') / 1e9:,.0f} | {part}"
            f" | {line.mean('seconds'):,.0f} | {line.mean('num_params'):,.0f}"
            f" | {line.mean('flops') / 1e6:,.1f}"
            f" | {_DIFFERS if line.method.startswith('growth') else ''} |"
        )
    return "\n".join(rows)


def describe_aim(lines: Sequence[Line]) -> str:
    """Says what of the aim the default reached, over the seeds that it and the sweep both have."""
    own = {line.method: {o.seed: o for o in line.outcomes} for line in lines}
    both = sorted(own.get(DEFAULT, {}).keys() & own.get(SWEEP, {}).keys())
    if not both:
        return "The default and the sweep have no seed in common yet."
    grown, swept = ([own[name][seed] for seed in both] for name in (DEFAULT, SWEEP))
    if not (images := max(outcome.num_test for outcome in (*grown, *swept))):
        return "How many images the test set has is not known: table.json is an older one."
    ahead = fmean(g.test_accuracy - s.test_accuracy for g, s in zip(grown, swept, strict=True))
    error = standard_error(fmean(s.test_accuracy for s in swept), images)
    part = fmean(g.training_flops / s.training_flops for g, s in zip(grown, swept, strict=True))
    net = fmean(g.flops for g in grown) / fmean(s.flops for s in swept)
    by_seed = fmean(g.flops / s.flops for g, s in zip(grown, swept, strict=True))
    said = {
        f"test accuracy {round(ahead, 2) + 0.0:+.2f} points against the sweep's (one standard error"
        f" on {images:,} images: {error:.2f})": ahead >= -error,
        f"{100 * part:.0f} % of its training FLOPs (wanted: a third at most)": part <= 1 / 3,
        f"{net:.2f} times the FLOPs of its nets, mean by mean, and {by_seed:.2f} times seed by seed"
        " (wanted: 1 at most)": max(net, by_seed) <= 1,
    }
    seeds = f"seed{'s' * (len(both) > 1)} {', '.join(map(str, both))}"
    marked = [f"{text}, {'reached' if ok else 'NOT reached'}" for text, ok in said.items()]
    return f"The default, over {seeds}: {'; '.join(marked)}."


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
    before = _read_table(table) if options.add and table.exists() else {}
    found = {
        section.title: read_outcomes([e for e in entries if e.section is section], workdir)
        for section in study.sections
    }
    if not any(found.values()):
        print(f"nothing of {options.study} has run in {workdir} yet", file=sys.stderr)
        return 1
    parts, content, panels, done = [], {}, {}, 0
    for title in dict.fromkeys((*before, *found)):
        if not (outcomes := add_to(before.get(title, ()), found.get(title, ()))):
            continue
        ran = [o for o in outcomes if o.method.startswith(("growth", "from scratch"))]
        done += len(ran) if title in found else 0
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
