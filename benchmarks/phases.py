"""What the growth phases that are measured have in common."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from autogrow_jax.data import Dataset, load_dataset
from autogrow_jax.reporting.numbers import format_depths
from autogrow_jax.reporting.result import TIMED
from autogrow_jax.steps.programs import Programs
from benchmarks.step_times import Depths, DepthTime, StepTimes

Record = dict[str, Any]
IMAGE_SIDE = 32  # MNIST's, once padded.


def make_record(
    seconds: dict[str, float],
    by_depth: Sequence[DepthTime],
    num_params: int,
    compilations: int,
    losses: Sequence[float],
) -> Record:
    """What each of the phases returns.

    Args:
      seconds: by what on, and "total".
      by_depth: the steady steps.
      num_params: of the last net.
      compilations: of programs of any kind.
      losses: in training, in nats, of each epoch.

    Returns:
      These, with "steady" added to the seconds: what the steps would have taken had each taken as
      long as the median step at its depth.
    """
    steady = sum(depth.steps * depth.seconds for depth in by_depth)
    return {
        "seconds": {**seconds, "steady": steady},
        "depths": [depth._asdict() for depth in by_depth],
        "steps": sum(depth.steps for depth in by_depth),
        "num_params": num_params,
        "compilations": compilations,
        "losses": list(losses),
    }


def say_depths(name: str, depths: Sequence[int]) -> None:
    """Says on stderr how far a phase is, now and then."""
    if len(set(depths)) == 1:
        print(f"  {name} at {format_depths(tuple(depths))}", file=sys.stderr, flush=True)


class Stopwatch:
    """Adds up seconds by what they are spent on, compilation apart; starts when it is made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self.seconds = dict.fromkeys(TIMED, 0.0)
        self.programs = Programs()

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Times a block, less what `programs` compiled in it."""
        start, compiled = time.perf_counter(), self.programs.seconds
        yield
        spent = time.perf_counter() - start
        self.seconds[what] += spent - (self.programs.seconds - compiled)

    def stop(self) -> dict[str, float]:
        """All seconds, "compile" and "total" too."""
        total = time.perf_counter() - self._start
        return {**self.seconds, "compile": self.programs.seconds, "total": total}


class Rebuilt(Protocol):
    """A net that is made anew at each depth.

    Attributes:
      name: for messages.
      steps_per_epoch: of training.
    """

    name: str
    steps_per_epoch: int

    def grow(self, depths: Depths) -> None:
        """Builds the net of these depths, a block more than before, with the old values."""
        ...

    def train_epoch(self, epoch: int, times: StepTimes) -> float:
        """Trains; returns the mean loss in nats, and ticks after steps."""
        ...

    def evaluate(self) -> float:
        """Validation accuracy in percent."""
        ...

    def save(self, epoch: int, accuracy: float) -> None:
        """Saves what it would take to go on; `epoch` epochs are done."""
        ...


def go_through(net: Rebuilt, watch: Stopwatch, path: Sequence[Depths], interval: int):
    """Trains at each depth of a path.

    Returns:
      What was heard of the steps, and the mean loss of each epoch.
    """
    times, losses = StepTimes(), []
    for place, depths in enumerate(path):
        with watch.timed("growth"):
            net.grow(depths)
        say_depths(net.name, depths)
        for epoch in range(place * interval, (place + 1) * interval):
            start, compiled = time.perf_counter(), watch.programs.seconds
            with watch.timed("train"):
                losses.append(net.train_epoch(epoch, times))
            compiling = watch.programs.seconds - compiled
            spent = time.perf_counter() - start - compiling
            times.end_epoch(depths, net.steps_per_epoch, spent)
            with watch.timed("evaluate"):
                accuracy = net.evaluate()
            with watch.timed("checkpoint"):
                net.save(epoch + 1, accuracy)
    return times, losses


def load(data: str) -> Dataset:
    """The data set that `train_ours` loads."""
    return load_dataset(f"npz:{data}", image_size=IMAGE_SIDE, crop_padding=0, flip=False)
