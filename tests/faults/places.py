"""A run that goes on on another number of devices or processes, and back."""

import signal
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from .harness import SMALL, Bench, Row, Scenario, Started, finish, lines_of

# Without a front, which goes by accuracies: one image more or less decides. Growth goes by epochs.
_CONFIG = SMALL | {
    "num_devices": 0, "growth.max_depths": "2,2,2",
    "finetune.front": False, "finetune.epochs": 4, "model.convolution": "xla",
    "optimizer.learning_rate": 0.003,
}  # fmt: skip
# Processes and the devices of each, start by start.
WAYS = {
    "4 devices, 1, 4": [(1, 4), (1, 1), (1, 4)],
    "1 device, 4, 1": [(1, 1), (1, 4), (1, 1)],
    "1 process, 2, 1": [(1, 1), (2, 1), (1, 1)],
    "2 processes, 1, 2": [(2, 1), (1, 1), (2, 1)],
    "2 processes of 2 devices, 1 of 4, 1 of 1": [(2, 2), (1, 4), (1, 1)],
}
# Sums of floats in another order, and what some epochs make of that; more at larger rates.
RTOL = 5e-3


def move(bench: Bench, random: np.random.Generator, way: str) -> Iterator[Row]:
    """Kills a run twice and goes on elsewhere each time; its losses are those of one place."""
    usual = bench.seeded(Scenario("growth and fine-tuning on one device", _CONFIG))
    bench.whole(usual)
    expected = lines_of(bench.whole_folder(usual))
    workdir = bench.folder / f"moved-{random.integers(2**40)}"
    stops = sorted(random.choice(np.arange(1, len(expected) - 1), 2, replace=False).tolist())
    for (processes, devices), stop in zip(WAYS[way][:2], stops, strict=True):
        started = Started(replace(usual, processes=processes, devices=devices), workdir)
        started.wait_until(lambda stop=stop: len(lines_of(workdir)) >= stop)
        started.send(signal.SIGKILL)
        statuses, text = started.end()
        assert -signal.SIGKILL in statuses, f"{statuses} {text[-2000:]}"
    processes, devices = WAYS[way][2]
    finish(replace(usual, processes=processes, devices=devices), workdir)
    found = lines_of(workdir)
    one, other = ([line["depths"] for line in lines] for lines in (found, expected))
    lost = [] if one == other else ["depths"]
    worst = 0.0
    for name in () if lost else ("train_loss", "validation_loss"):
        values = (np.array([line[name] for line in lines]) for lines in (found, expected))
        here, there = values
        worst = max(worst, float(np.max(np.abs(here - there) / np.abs(there))))
    if worst > RTOL:
        lost.append(f"losses differ by {worst:.1e}")
    then = f"losses of one device to {worst:.0e} of each"
    what = f"{way}: killed after {stops[0]} and {stops[1]} epochs"
    yield [usual.name, what, then, ", ".join(lost) or "nothing"]
