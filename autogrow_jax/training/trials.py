"""A round of trials: nets of one block more, each trained for an epoch from the same weights."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from autogrow_jax.training.state import TrainState
from autogrow_jax.training.trainer import Trainer


class Trial(NamedTuple):
    """A net that was tried.

    Attributes:
      stage: that gained a block.
      line: the line of metrics.jsonl of its epoch.
      depths: of the net.
      state: its arrays at exact depth on the host; None while the trainer holds them.
    """

    stage: int
    line: dict[str, Any]
    depths: tuple[int, ...]
    state: TrainState | None = None


class Trials:
    """The nets of one round.

    Two of them are kept on the host, whatever the number of stages: the one all trials start from,
    and the one the policy may still keep. Capacities never shrink again, as going back would be a
    compilation each time.

    Args:
      trainer: holds the net to start from.
      epoch: about to begin. All trials of the round use its draws for batches, augmentation and
        new block, so that they differ by the stage alone, and the one that is kept is what plain
        growth of its stage would have trained in that epoch.

    Attributes:
      base_depths: of the net to start from.
    """

    def __init__(self, trainer: Trainer, epoch: int):
        self.epoch = epoch
        self._trainer = trainer
        self.base_depths = trainer.depths
        self._base = self._copy_state()
        self._last: Trial | None = None
        self._best: Trial | None = None

    def begin(self, stage: int, train_accuracy: float) -> None:
        """Makes the trainer's net the one to try.

        Args:
          stage: gains a block.
          train_accuracy: of the net to start from in its last epoch, in percent, for Adam
            pre-training.
        """
        self._restore(self._base, self.base_depths)
        self._trainer.grow((stage,), self.epoch, train_accuracy)

    def end(self, stage: int, line: dict[str, Any]) -> None:
        """Notes that the trainer's net was trained for its epoch."""
        self._last = Trial(stage, line, self._trainer.depths)

    def hold(self, best: int | None) -> None:
        """Holds the net of stage `best`, the last one tried or the one held, and no other."""
        trial = None if best is None else self._find(best)
        if trial is not None and trial.state is None:
            trial = trial._replace(state=self._copy_state())
        self._best = trial

    def close(self, stages: Sequence[int]) -> Trial | None:
        """Makes the trainer's net the one to go on with.

        Args:
          stages: the one whose net is kept; empty for the net that all trials started from.

        Returns:
          The trial that is kept.

        Raises:
          ValueError: where the weights of such a net are not there.
        """
        if not stages:
            self._restore(self._base, self.base_depths)
            return None
        if len(stages) > 1:
            raise ValueError(f"a trial adds one block; the policy wants to keep {tuple(stages)}")
        trial = self._find(stages[0])
        if trial.state is not None:
            self._restore(trial.state, trial.depths)
        return trial

    def _find(self, stage: int) -> Trial:
        found = [trial for trial in (self._last, self._best) if trial and trial.stage == stage]
        if not found:
            raise ValueError(
                f"the policy wants to keep the trial of stage {stage}, which was not tried or was"
                " dropped: Decision.best has to name it in every trial that follows its own"
            )
        return found[0]

    def _copy_state(self) -> TrainState:
        with self._trainer.timed("growth"):
            return _copy(self._trainer.exact_state())

    def _restore(self, state: TrainState, depths: tuple[int, ...]) -> None:
        with self._trainer.timed("growth"):
            self._trainer.restore(_copy(state), depths, self._trainer.capacities)


def _copy(state: TrainState) -> TrainState:
    # On a CPU, arrays of host and device may share their memory, and steps reuse what they get.
    return jax.tree.map(np.array, state)
