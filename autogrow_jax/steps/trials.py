"""A round of trials: nets of one block more, of which the policy keeps one or none."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from autogrow_jax.saving import rebuild
from autogrow_jax.steps.state import Depths, TrainState
from autogrow_jax.steps.trainer import Trainer


class Trial(NamedTuple):
    """A net that was tried: which stage gained a block, and the line of metrics.jsonl on it."""

    stage: int
    line: dict[str, Any]
    depths: Depths
    arrays: TrainState | None = None  # At exact depth, on the host; None while the trainer's.


class Trials:
    """A round of trials: nets of one block more, each trained for an epoch from the same weights.

    Two of them are kept on the host, whatever the number of stages: the one all trials start from,
    and the one the policy may still keep. Capacities never shrink again, as going back would be a
    compilation each time.

    `trainer` holds the net to start from, of `base_depths`. All trials of the round use the draws
    of the `epoch` about to begin for batches, augmentation and new block, so that they differ by
    the stage alone, and the one that is kept is what plain growth of its stage would have trained.
    """

    def __init__(self, trainer: Trainer, epoch: int):
        self.epoch, self.base_depths = epoch, trainer.depths
        self._trainer = trainer
        self._base = self._copy_state()
        self._last: Trial | None = None
        self._best: Trial | None = None

    @classmethod
    def resumed(
        cls, trainer: Trainer, told: Mapping[str, Any], arrays: Mapping[str, dict[str, np.ndarray]]
    ) -> "Trials":
        """A round amid a trial, of what `told` and `arrays` gave; the trainer has the net tried."""
        trials = cls.__new__(cls)
        trials._trainer, trials.epoch = trainer, told["epoch"]
        trials.base_depths, trials._last, trials._best = tuple(told["base_depths"]), None, None

        def read(part: str, depths: Depths) -> TrainState:
            return rebuild(arrays[part], trainer.abstract_state(depths))

        trials._base = read("base", trials.base_depths)
        if (best := told["best"]) is not None:
            depths = tuple(best["depths"])
            trials._best = Trial(best["stage"], best["line"], depths, read("best", depths))
        return trials

    def told(self) -> dict[str, Any]:
        """What is to be remembered amid a trial beside `arrays`; JSON-able."""
        best = self._best and self._best._replace(arrays=None)._asdict()
        return {"epoch": self.epoch, "base_depths": self.base_depths, "best": best}

    def arrays(self) -> dict[str, TrainState]:
        """The states that are held, by their part in the round."""
        best = self._best and self._best.arrays
        return {"base": self._base} | ({} if best is None else {"best": best})

    def begin(self, stage: int, train_accuracy: float) -> None:
        """Lets the net to start from grow in `stage`; `train_accuracy` as for `Trainer.grow`."""
        self._restore(self._base, self.base_depths)
        self._trainer.grow((stage,), self.epoch, train_accuracy)

    def end(self, stage: int, line: dict[str, Any]) -> None:
        """Notes that the trainer's net was trained for its epoch."""
        self._last = Trial(stage, line, self._trainer.depths)

    def hold(self, best: int | None) -> None:
        """Holds the net of stage `best`, the last one tried or the one held, and no other."""
        trial = None if best is None else self._find(best)
        if trial is not None and trial.arrays is None:
            trial = trial._replace(arrays=self._copy_state())
        self._best = trial

    def close(self, stages: Sequence[int]) -> Trial | None:
        """Makes the trainer's net the one to go on with, and returns the trial that is kept.

        `stages` holds the one whose net is kept, or none for the net that all trials started from.
        """
        if not stages:
            self._restore(self._base, self.base_depths)
            return None
        if len(stages) > 1:
            raise ValueError(f"a trial adds one block; the policy wants to keep {tuple(stages)}")
        trial = self._find(stages[0])
        if trial.arrays is not None:
            self._restore(trial.arrays, trial.depths)
        return trial

    def _find(self, stage: int) -> Trial:
        found = [trial for trial in (self._last, self._best) if trial and trial.stage == stage]
        if not found:
            raise ValueError(
                f"the policy wants to keep the trial of stage {stage}, which was not tried or was"
                " dropped: Decision.best has to name it in every trial that follows its own"
            )
        return found[0]

    # Both copy: on a CPU, arrays of host and device may share their memory, and steps reuse it.

    def _copy_state(self) -> TrainState:
        with self._trainer.timed("growth"):
            return jax.tree.map(np.array, self._trainer.exact_state())

    def _restore(self, arrays: TrainState, depths: Depths) -> None:
        with self._trainer.timed("growth"):
            arrays = jax.tree.map(np.array, arrays)
            self._trainer.restore(arrays, depths, self._trainer.capacities)
