"""The tables of growth against a sweep: of one part, and of all parts together.

python -m benchmarks.answer_tables results/answer

Reads each `table.json` that `benchmarks.answer` wrote in folders of the given one, and prints a
line for each: the default beside the sweep and the fixed three blocks a stage. Where
`benchmarks.choice` left a `choice.json`, how far the default is ahead over many held-out parts.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

from autogrow_jax.growth import standard_error
from autogrow_jax.process import user_path
from autogrow_jax.reporting.numbers import format_depths

DEFAULT = "growth, the default"
PERIODIC, CONVERGENT = "growth, the paper's periodic", "growth, the paper's convergent"
SWEEP, HALVING = "sweep, one standard error", "successive halving"
OPTUNA = "Optuna, TPE and Hyperband"
FIXED = "from scratch, the fixed 3 a stage"
# What `benchmarks.choice` chooses among, and by which rules the sweep and the default do.
FRONT, SCRATCH = "the default's front", "from scratch"
SWEEPS_RULE = "one_se: accuracy, one standard error"
DEFAULTS_RULE = "one_se_brier: calibrated Brier score, likewise"
# Of grown nets; all else is the same for all.
_DIFFERS = "growth comes before, at a constant rate"


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


def read_table(path: Path) -> dict[str, list[Outcome]]:
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


class Comparison(NamedTuple):
    """The default against the sweep, over the seeds that both have.

    `ahead` is in points of test accuracy, `error` one standard error of the sweep's; `part` is the
    default's training FLOPs as a part of the sweep's, `net` and `net_by_seed` so the FLOPs of the
    nets, of their means and as the mean over seeds.
    """

    seeds: list[int]
    images: int
    ahead: float
    error: float
    part: float
    net: float
    net_by_seed: float

    @property
    def reached(self) -> tuple[bool, bool, bool]:
        """The aim: as accurate, at a third of the training at most, by nets that cost no more."""
        is_cheap = max(self.net, self.net_by_seed) <= 1
        return self.ahead >= -self.error, self.part <= 1 / 3, is_cheap


def compare(lines: Sequence[Line]) -> Comparison | str:
    """Compares the default with the sweep, or says why that cannot be done."""
    own = {line.method: {o.seed: o for o in line.outcomes} for line in lines}
    both = sorted(own.get(DEFAULT, {}).keys() & own.get(SWEEP, {}).keys())
    if not both:
        return "The default and the sweep have no seed in common yet."
    grown, swept = ([own[name][seed] for seed in both] for name in (DEFAULT, SWEEP))
    if not (images := max(outcome.num_test for outcome in (*grown, *swept))):
        return "How many images the test set has is not known: table.json is an older one."
    pairs = list(zip(grown, swept, strict=True))
    return Comparison(
        both,
        images,
        ahead=fmean(g.test_accuracy - s.test_accuracy for g, s in pairs),
        error=standard_error(fmean(s.test_accuracy for s in swept), images),
        part=fmean(g.training_flops / s.training_flops for g, s in pairs),
        net=fmean(g.flops for g in grown) / fmean(s.flops for s in swept),
        net_by_seed=fmean(g.flops / s.flops for g, s in pairs),
    )


def describe_aim(lines: Sequence[Line]) -> str:
    """Says what of the aim the default reached, over the seeds that it and the sweep both have."""
    found = compare(lines)
    if isinstance(found, str):
        return found
    said = (
        f"test accuracy {round(found.ahead, 2) + 0.0:+.2f} points against the sweep's (one standard"
        f" error on {found.images:,} images: {found.error:.2f})",
        f"{100 * found.part:.0f} % of its training FLOPs (wanted: a third at most)",
        f"{found.net:.2f} times the FLOPs of its nets, mean by mean, and {found.net_by_seed:.2f}"
        " times seed by seed (wanted: 1 at most)",
    )
    seeds = f"seed{'s' * (len(found.seeds) > 1)} {', '.join(map(str, found.seeds))}"
    pairs = zip(said, found.reached, strict=True)
    marked = [f"{text}, {'reached' if ok else 'NOT reached'}" for text, ok in pairs]
    return f"The default, over {seeds}: {'; '.join(marked)}."


def format_overview(folder: Path) -> str:
    """The table of all parts, in Markdown; what does not reach the aim is bold."""
    rows = [
        "| part | net and set | seeds | default % | sweep % | ahead | training, of the sweep's"
        " | FLOPs of the net, of the sweep's | by seed | fixed 3 a stage %"
        " | over many held-out parts |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for table in sorted(folder.glob("*/table.json")):
        for title, outcomes in read_table(table).items():
            lines = summarize(outcomes)
            if isinstance(found := compare(lines), str):
                continue
            of_both = [o for o in outcomes if o.seed in found.seeds]
            default, swept, fixed = (
                f"{fmean(o.test_accuracy for o in of_both if o.method == method):.2f}"
                for method in (DEFAULT, SWEEP, FIXED)
            )
            accurate, cheap, _ = found.reached
            cells = [
                f"[{table.parent.name}]({table.parent.name}/table.md)",
                *(title, f"{len(found.seeds)}", default, swept),
                _mark(f"{round(found.ahead, 2) + 0.0:+.2f} ({found.error:.2f})", accurate),
                _mark(f"{100 * found.part:.0f} %", cheap),
                *(_mark(f"{of:.2f}", of <= 1) for of in (found.net, found.net_by_seed)),
                fixed,
                _over_many_parts(table.with_name("choice.json"), title),
            ]
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _over_many_parts(path: Path, title: str) -> str:
    """Points ahead, and the nets' FLOPs as a part of the sweep's, each by its own rule."""
    known = json.loads(path.read_text()) if path.exists() else []
    by_kind = {each["kind"]: each for each in known if each["section"] == title}
    if not by_kind.keys() >= {FRONT, SCRATCH}:
        return ""
    front, scratch = by_kind[FRONT], by_kind[SCRATCH]
    if set(front["seeds"]) != set(scratch["seeds"]):
        return ""
    ours, swept = front["rules"][DEFAULTS_RULE], scratch["rules"][SWEEPS_RULE]
    ahead = round(ours["test_accuracy"] - swept["test_accuracy"], 2) + 0.0
    return f"{ahead:+.2f}, {ours['mflops'] / swept['mflops']:.2f} times"


def _mark(text: str, is_reached: bool) -> str:
    return text if is_reached else f"**{text}**"


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table of all parts; status 1 where there is none."""
    parser = argparse.ArgumentParser(prog="benchmarks.answer_tables", description=__doc__)
    parser.add_argument("folder", nargs="?", default="results/answer")
    table = format_overview(user_path(parser.parse_args(arguments).folder))
    print(table)
    return 0 if table.count("\n") > 1 else 1


if __name__ == "__main__":
    sys.exit(main())
