"""Which rule chooses a net well on few held-out images: the rules, played on images drawn of test.

python -m benchmarks.choice --study=configs/studies/answer_small.py --workdir=runs/answer_small \\
    --out=results/answer/small

Of each finished run of `configs/studies/answer.py` the nets of its front, and of each seed the nets
from scratch, answer the test set. Then, again and again, as many images as the run held out are
drawn of it, each rule chooses by them, and what it chose is looked at on the others: its accuracy
and its FLOPs, mean over draws and seeds. A single held-out part says little of a rule. A seed whose
nets from scratch have not all run is left out of these. Writes `choice.md` and `choice.json`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from autogrow_jax import build
from autogrow_jax.halving import brier_scores, recommend
from autogrow_jax.models import estimate_cost
from autogrow_jax.process import user_path
from autogrow_jax.reporting import Workdir, replace_file, to_json
from autogrow_jax.reporting.workdir import read_config
from autogrow_jax.studies.cells import Entry, Folder
from autogrow_jax.training import Loaded, load
from benchmarks.answer import make_parser, read_options
from benchmarks.answer_tables import DEFAULTS_RULE, FRONT, SCRATCH, SWEEPS_RULE


class Net(NamedTuple):
    """What a net answers to the test set: log probabilities [N, C]; the truth [N]; its FLOPs."""

    logs: np.ndarray
    labels: np.ndarray
    flops: int

    @property
    def right(self) -> np.ndarray:
        """bool [N]."""
        return self.logs.argmax(axis=1) == self.labels

    @property
    def loss(self) -> np.ndarray:
        """float [N]."""
        return -self.logs[np.arange(len(self.labels)), self.labels]

    def of(self, rows: np.ndarray) -> "Net":
        """The same of some images."""
        return Net(self.logs[rows], self.labels[rows], self.flops)


def _by_accuracy(choose: str, nets: Sequence[Net]) -> int:
    accuracies = [100 * float(net.right.mean()) for net in nets]
    return recommend(accuracies, len(nets[0].labels), choose)


def _by_loss(choose: str, nets: Sequence[Net]) -> int:
    return _by_scores(choose, [net.loss for net in nets])


def _by_brier(choose: str, nets: Sequence[Net]) -> int:
    return _by_scores(choose, [brier_scores(net.logs, net.labels) for net in nets])


def _by_scores(choose: str, scores: Sequence[np.ndarray]) -> int:
    return recommend([0.0] * len(scores), len(scores[0]), choose, scores=scores)


# What `finetune.choose` takes, and the log loss in the place of the Brier score.
RULES: dict[str, Any] = {
    SWEEPS_RULE: ("one_se", _by_accuracy),
    "best: accuracy": ("best", _by_accuracy),
    "log loss, one standard error of the difference": ("one_se_brier", _by_loss),
    DEFAULTS_RULE: ("one_se_brier", _by_brier),
    "half_se_brier: the same, half a standard error": ("half_se_brier", _by_brier),
}


def read_nets(
    entries: Sequence[Entry], workdir: Path
) -> tuple[dict[tuple[str, int], list[Net]], int]:
    """The nets that are chosen from, by their kind and seed, the cheapest first.

    Returns:
      Them, and how many images the runs held out.
    """
    found: dict[tuple[str, int], list[Net]] = {}
    images, whole = 0, sum(entry.row.names[0].isdigit() for entry in entries)
    for entry in entries:
        for cell in entry.cells:
            folder, name = Folder(workdir, cell), entry.row.names[0]
            if why := folder.why_failed():
                print(f"left out: {cell.label}: {why}", file=sys.stderr)
                continue
            result = folder.result()
            if result is None or not (name.isdigit() or result.get("front")):
                continue
            images = int(result["validation_examples"])
            run = Workdir(folder.run)
            test = build.load_data(build.resolve(read_config(run), to_read=True)).test
            fronts = [net["depths"] for net in result.get("front", ())] or [None]
            nets = found.setdefault((SCRATCH if name.isdigit() else FRONT, cell.seed), [])
            nets += [
                _ask(load(run.root, depths=depths, convolution="auto"), test) for depths in fronts
            ]
    done = {k: nets for k, nets in found.items() if k[0] == FRONT or len(nets) == whole}
    return {key: sorted(nets, key=lambda net: net.flops) for key, nets in done.items()}, images


def _ask(net: Loaded, test: Any) -> Net:
    images = np.asarray(test.images)
    parts = [net.predict(images[i : i + 1000]) for i in range(0, len(images), 1000)]
    logs = np.log(np.maximum(np.concatenate(parts), 1e-30))
    return Net(logs, np.asarray(test.labels), estimate_cost(net.network, images.shape[1:]).flops)


def play(nets: Sequence[Sequence[Net]], images: int, draws: int) -> list[tuple[str, float, float]]:
    """Of each rule what it chooses on average: test accuracy in percent, and MFLOPs.

    Args:
      nets: of each seed those to choose from.
      images: that a choice looks at, fewer than test has.
      draws: of each seed.
    """
    source, outcomes = np.random.default_rng(0), {rule: [] for rule in RULES}
    for own in nets:
        for _ in range(draws):
            rows, others = np.split(source.permutation(len(own[0].labels)), [images])
            drawn = [net.of(rows) for net in own]
            for rule, (which, choose) in RULES.items():
                chosen = own[choose(which, drawn)]
                accuracy = 100 * float(chosen.right[others].mean())
                outcomes[rule].append((accuracy, chosen.flops / 1e6))
    return [
        (rule, fmean(a for a, _ in pairs), fmean(f for _, f in pairs))
        for rule, pairs in outcomes.items()
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the table; status 1 where nothing has run yet."""
    parser = make_parser("benchmarks.choice", __doc__)
    parser.add_argument("--draws", type=int, default=200)
    options, study, _, entries = read_options(parser, arguments)
    workdir, out = user_path(options.workdir), user_path(options.out)
    parts: list[str] = []
    content: list[dict[str, Any]] = []
    for section in study.sections:
        found, images = read_nets([e for e in entries if e.section is section], workdir)
        for kind in dict.fromkeys(kind for kind, _ in found):
            by_seed = {seed: nets for (each, seed), nets in found.items() if each == kind}
            rows = play([*by_seed.values()], images, options.draws)
            rules = {rule: {"test_accuracy": a, "mflops": f} for rule, a, f in rows}
            known = {"section": section.title, "kind": kind, "seeds": [*by_seed], "rules": rules}
            content.append(known)
            parts.append(
                f"{section.title}, {kind}, {len(by_seed)} seeds, {options.draws} draws of {images}"
                " images each\n\n| rule | test accuracy % | MFLOP of the net |\n|---|---:|---:|\n"
                + "\n".join(f"| {rule} | {a:.2f} | {f:.1f} |" for rule, a, f in rows)
            )
    if not parts:
        print(f"nothing of {options.study} has run in {workdir} yet", file=sys.stderr)
        return 1
    text = "\n\n".join(parts) + "\n"
    replace_file(out / "choice.md", text.encode())
    replace_file(out / "choice.json", (to_json(content, "choice", indent=1) + "\n").encode())
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
