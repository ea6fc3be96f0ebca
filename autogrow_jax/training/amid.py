"""Amid an epoch: what is saved there, and the stop of a run that was signalled.

An epoch of ImageNet takes an hour. Batches are a function of seed, epoch and step, so that nothing
that reads images has a state: an epoch goes on from the arrays, its sums so far and the number of
steps. They lie in one file of the workdir, beside what the run remembered as the epoch began; a
checkpoint of a later epoch makes it void.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from autogrow_jax import hosts
from autogrow_jax.command_line import Terminated, is_signalled, stop_if_signalled
from autogrow_jax.errors import UserError
from autogrow_jax.saving import Restored, read_arrays, write_arrays
from autogrow_jax.steps import Begun, Sums, Trainer, Trials
from autogrow_jax.training.run_state import Clock, RunState

_KEY = "amid"  # Of what the file remembers, the entry that is not the run's.
_SUMS = ("loss", "correct", "examples", "bad_step")
# Before a growth, which may take long to compile or to pre-train, what took so many seconds is
# saved.
_LONG = 10.0


class Amid:
    """Keeps where a run stands amid an epoch: every few minutes, and where it is told to stop.

    It is the first process that saves, and all stop together.

    Args:
      path: of the file.
      restored: what the run goes on from, if anything.
      tell: is told where it goes on and where it stops.
    """

    def __init__(
        self,
        path: Path,
        trainer: Trainer,
        state: RunState,
        clock: Clock,
        restored: Restored | None,
        tell: Callable[[str], None],
    ):
        self._path, self._trainer, self._state, self._clock = path, trainer, state, clock
        self._tell, self._minutes = tell, trainer.settings.checkpoint.minutes
        self._memory: dict[str, Any] | None = None  # None where nothing can be saved.
        self._more: dict[str, Any] = {}  # Further trees to save.
        # What the epoch's time counts from, a `time.perf_counter()`, over all starts; and how far
        # it was when it began in this one.
        self.started = self._saved = time.perf_counter()
        self.begun: Begun | None = None
        self._resumed: Begun | None = None
        self._spent = 0.0
        # The epochs done at the last checkpoint, and by what the file remembers.
        self._last, self._kept = state.epoch, -1
        told = restored.memory.get(_KEY) if restored else None
        if told is not None:
            self._last, self._kept, self._spent = -1, state.epoch, told["seconds"]
            sums = Sums(*(told["sums"][name] for name in _SUMS))
            total = trainer.steps_per_epoch
            self._resumed = Begun(trainer.padded_state, sums, min(told["steps"], total))
        trainer.look = self.look
        if hosts.count() == 1:  # Several take each their time to compile.
            trainer.programs.look = self.look

    @property
    def resumes(self) -> bool:
        """Whether the next epoch was begun in an earlier start."""
        return self._resumed is not None

    def begin(self, in_trials: bool) -> None:
        """Notes what the run remembers as an epoch begins, before a net is grown to be tried in it.

        Raises the stop of a run that was signalled, as `look` does.
        """
        trainer, state = self._trainer, self._state
        self.started, self._spent = time.perf_counter() - self._spent, 0.0
        self.begun, self._resumed = self._resumed, None
        if self.begun is not None:
            self._tell(f"goes on in epoch {state.epoch}, {self._describe(self.begun)}")
        trainer.begun = self.begun or Begun(trainer.padded_state, Sums.zero(), 0)
        self._memory, self._more = None if in_trials else state.to_dict(trainer), {}
        self.look()

    def begin_trial(self, trials: Trials) -> None:
        """Notes the same once the net that an epoch tries has grown, or was read again."""
        trainer, self._more = self._trainer, trials.arrays()
        self._memory = self._state.to_dict(trainer) | {"trials": trials.told()}
        trainer.begun = self.begun or Begun(trainer.padded_state, Sums.zero(), 0)

    def look(self) -> None:
        """Saves where it is time; where the run was signalled, saves and raises the stop.

        Between two trials the next step is waited for.
        """
        if self._memory is None:
            return
        if hosts.anyone_stops(is_signalled()):
            if hosts.first(self._save):
                self._tell(f"saved in epoch {self._kept}, {self._describe(self._trainer.begun)}")
            stop_if_signalled()
            raise Terminated
        if self._minutes and self._is_due(60 * self._minutes):
            self._save()

    def before_growth(self) -> None:
        """Saves what took long, as the growth that follows may take long to be stopped."""
        if self._is_due(_LONG):
            self._save()

    def checkpointed(self) -> None:
        """Notes a checkpoint, beside which the file is not needed for long."""
        before, self._last, self._saved = self._last, self._state.epoch, time.perf_counter()
        # The newest may still be on its way to the disk, but not the one before it.
        if 0 <= self._kept < before:
            self.forget()

    def forget(self) -> None:
        """Deletes the file."""
        self._kept = -1
        if hosts.is_first():
            self._path.unlink(missing_ok=True)

    def _describe(self, begun: Begun | None) -> str:
        return f"after {begun.steps if begun else 0} of {self._trainer.steps_per_epoch} steps"

    def _is_due(self, seconds: float) -> bool:
        return hosts.is_first() and time.perf_counter() - self._saved >= seconds

    def _save(self) -> bool:
        """Saves if there is anything to save; says whether it did."""
        trainer, memory, begun = self._trainer, self._memory, self._trainer.begun
        if memory is None or begun is None or begun.state is not trainer.padded_state:
            return False
        if memory["epoch"] < self._last:
            return False
        is_gone = any(leaf.is_deleted() for leaf in jax.tree.leaves(begun.state))
        if is_gone or (begun.steps == 0 and memory["epoch"] in (0, self._last)):
            return False
        with trainer.timed("checkpoint"):
            self._clock.update()
            told = {"steps": begun.steps, "seconds": time.perf_counter() - self.started}
            memory |= {
                "seconds": self._state.seconds,
                "compilations": self._state.compilations,
                "compilations_ahead": self._state.compilations_ahead,
            }
            arrays = {"state": trainer.exact_state(), "sums": jax.device_get(begun.sums)}
            write_arrays(self._path, arrays | self._more, memory | {_KEY: told})
        self._saved, self._kept = time.perf_counter(), memory["epoch"]
        return True


def read_amid(path: Path) -> Restored | None:
    """Reads where a run stood amid an epoch, as the `Restored` of a checkpoint; None if nowhere.

    Raises:
      UserError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        found = read_arrays(path)
        parts: dict[str, dict[str, np.ndarray]] = {}
        for name, array in found.arrays.items():
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = array
        told = found.memory[_KEY] | {"sums": {name: parts["sums"][name] for name in _SUMS}}
        return Restored(parts["state"], found.memory | {_KEY: told}, parts)
    except (UserError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error})") from error
