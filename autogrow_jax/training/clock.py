"""Where the time of a run goes, over all its starts."""

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager

from autogrow_jax.training.memory import AHEAD, TIMED, Memory
from autogrow_jax.training.trainer import Trainer


class Clock:
    """Adds this start's seconds and compilations to those the memory brought along."""

    def __init__(self, memory: Memory, trainer: Trainer, start: float):
        self._before = dict(memory.seconds)
        self._compiled_before = dict(memory.compilations)
        self._ahead_before = dict(memory.compilations_ahead)
        self._memory, self._trainer, self._start = memory, trainer, start

    def timed(self, what: str) -> AbstractContextManager[None]:
        """Adds the time of a block to what is spent on `what`, one of `TIMED`."""
        return self._trainer.timed(what)

    def update(self) -> None:
        """Brings `memory.seconds` and `memory.compilations` up to date."""
        trainer, memory = self._trainer, self._memory
        programs = trainer.programs
        now = {**trainer.seconds, "compile": programs.seconds, AHEAD: programs.seconds_ahead}
        # A run that is older than a number spent nothing on it.
        memory.seconds = {name: self._before.get(name, 0.0) + now[name] for name in (*TIMED, AHEAD)}
        memory.seconds["total"] = self._before["total"] + time.perf_counter() - self._start
        memory.compilations = _add(self._compiled_before, programs.counts)
        memory.compilations_ahead = _add(self._ahead_before, programs.counts_ahead)


def _add(before: Mapping[str, int], now: Mapping[str, int]) -> dict[str, int]:
    return {kind: before.get(kind, 0) + now.get(kind, 0) for kind in {**before, **now}}
