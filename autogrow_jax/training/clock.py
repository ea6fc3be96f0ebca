"""Where the time of a run goes, over all its starts."""

import time
from contextlib import AbstractContextManager

from autogrow_jax.training.memory import TIMED, Memory
from autogrow_jax.training.trainer import Trainer


class Clock:
    """Adds this start's seconds and compilations to those the memory brought along."""

    def __init__(self, memory: Memory, trainer: Trainer, start: float):
        self._before = dict(memory.seconds)
        self._compiled_before = dict(memory.compilations)
        self._memory, self._trainer, self._start = memory, trainer, start

    def timed(self, what: str) -> AbstractContextManager[None]:
        """Adds the time of a block to what is spent on `what`, one of `TIMED`."""
        return self._trainer.timed(what)

    def update(self) -> None:
        """Brings `memory.seconds` and `memory.compilations` up to date."""
        trainer, memory = self._trainer, self._memory
        now = {**trainer.seconds, "compile": trainer.programs.seconds}
        memory.seconds = {name: self._before[name] + now[name] for name in TIMED}
        memory.seconds["total"] = self._before["total"] + time.perf_counter() - self._start
        counts = trainer.programs.counts
        memory.compilations = {
            kind: self._compiled_before.get(kind, 0) + counts.get(kind, 0)
            for kind in {**self._compiled_before, **counts}
        }
