"""What the steady training step takes at each depth of a run, seen from outside the run."""

import time
from collections import defaultdict
from itertools import pairwise
from typing import NamedTuple

Depths = tuple[int, ...]


class DepthTime(NamedTuple):
    """The training at one depth.

    Attributes:
      depths: blocks in each stage.
      steps: taken there.
      seconds: of the median step; where an epoch was too short for steps to be told apart, of the
        fastest epoch's mean step.
    """

    depths: Depths
    steps: int
    seconds: float


class StepTimes:
    """Listens to a run: `tick` while an epoch goes on, `end_epoch` after it."""

    def __init__(self) -> None:
        self._ticks: list[tuple[float, int]] = []
        self._samples: dict[Depths, list[tuple[float, int]]] = defaultdict(list)
        self._epochs: dict[Depths, list[tuple[float, int]]] = defaultdict(list)

    def tick(self, steps_done: int) -> None:
        """Takes note that the device has just finished so many steps of the epoch."""
        self._ticks.append((time.perf_counter(), steps_done))

    def end_epoch(self, depths: Depths, steps: int, seconds: float) -> None:
        """Takes note of an epoch of `steps` steps that took `seconds` in all."""
        for (start, before), (end, done) in pairwise(self._ticks):
            if done > before:
                self._samples[depths].append(((end - start) / (done - before), done - before))
        self._ticks = []
        self._epochs[depths].append((seconds, steps))

    def by_depth(self, seconds_beside: float = 0.0) -> list[DepthTime]:
        """The steps at each depth, in the order of the run.

        Args:
          seconds_beside: of an epoch's seconds, those that were not training.
        """
        found = []
        for depths, epochs in self._epochs.items():
            samples = self._samples[depths]
            fastest = min((seconds - seconds_beside) / steps for seconds, steps in epochs)
            step = weighted_median(samples) if samples else max(fastest, 0.0)
            found.append(DepthTime(depths, sum(steps for _, steps in epochs), step))
        return found


def weighted_median(samples: list[tuple[float, int]]) -> float:
    """The value below and above which lies half of the weight.

    Args:
      samples: (value, weight), at least one.
    """
    half = sum(weight for _, weight in samples) / 2
    for value, weight in sorted(samples):
        half -= weight
        if half <= 0:
            return value
    raise ValueError("no samples, or none with weight")
