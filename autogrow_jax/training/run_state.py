"""What a run remembers beside its arrays; it travels in every checkpoint as JSON."""

import dataclasses
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from autogrow_jax.reporting.result import AHEAD
from autogrow_jax.saving import CheckpointStore
from autogrow_jax.settings_table import Finetune
from autogrow_jax.steps import Trainer


@dataclasses.dataclass
class RunState:
    """The host's side of a run between two epochs; depths and capacities are the trainer's.

    Accuracies are in percent, and of nets that were kept; so are the saved arrays.
    """

    epoch: int  # Epochs done.
    phase: str  # "growth", "finetune" or "scratch"; began with epoch `phase_start`.
    phase_start: int
    # Of the network whose validation accuracy the last epoch measured: the trainer's, or those
    # before the growth that followed. The first blocks of the saved arrays are it.
    evaluated_depths: tuple[int, ...]
    policy: dict[str, Any]  # The policy's state.
    trial: int | None = None  # Stage that the next epoch tries to grow, if any.
    # Stages whose trials were kept by the round that ended after the last epoch, if one did.
    kept: list[int] | None = None
    trial_epochs: int = 0  # So far, those of networks that were kept included.
    train_accuracy: float = 0.0
    validation_accuracy: float = 0.0
    best_validation_accuracy: float = 0.0
    # A dict for each block added: epoch, stage, depths.
    growth: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    # Nets that growth passed through and that are, or will be, fine-tuned; see `front.Front`. The
    # cheapest first.
    candidates: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    candidate: int | None = None  # Place of the one that the next epoch trains, in a front.
    front: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # Once it is over.
    perturbed: float = 0.0  # How far each net is moved towards a fresh one before fine-tuning.
    # Of the net that the run goes on from, if any; see `inherited.Inherited.told`.
    init_from: dict[str, Any] = dataclasses.field(default_factory=dict)
    own: dict[str, str] = dataclasses.field(default_factory=dict)  # Objects it was given, by name.
    # Of each time that the loss was no longer finite: epoch, depths, learning rate.
    divergences: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    # Devices that each normalise their part of a batch by itself; 0 of none, or if it is unknown.
    normalized_apart: int = 0
    metrics: str = ""  # The lines of metrics.jsonl, as they are in the file.
    # By what on, over all starts; "total" too, and `AHEAD`, of a thread beside.
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    # Of programs that were called, by kind; and of these, those made by the thread beside.
    compilations: dict[str, int] = dataclasses.field(default_factory=dict)
    compilations_ahead: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def epoch_of_phase(self) -> int:
        """Epochs of the phase that the net has been trained for."""
        if self.candidate is not None:
            return len(self.candidates[self.candidate]["curve"])
        return self.epoch - self.phase_start

    @property
    def begins_finetuning(self) -> bool:
        """Whether the next epoch is the first after growth of the net that it trains."""
        return self.phase == "finetune" and self.epoch_of_phase == 0

    def epochs_left(self, length: int) -> int:
        """Epochs that are left where `length` follow growth; of a front the most."""
        if self.candidate is not None:
            return sum(length - len(entry["curve"]) for entry in self.candidates)
        return length - self.epoch_of_phase

    def is_over(self, finetune: Finetune) -> bool:
        """Whether nothing is left to train, where that follows growth."""
        if self.phase == "growth" or self.candidate is not None:
            return False
        length = finetune.length(self.phase_start)
        return bool(self.front) or self.epoch_of_phase >= length

    def record(self, line: Mapping[str, Any]) -> None:
        """Takes over the line of metrics.jsonl about an epoch of a network that is kept."""
        self.evaluated_depths = tuple(line["depths"])
        self.train_accuracy = line["train_accuracy"]
        self.validation_accuracy = line["validation_accuracy"]
        self.best_validation_accuracy = max(self.best_validation_accuracy, self.validation_accuracy)

    def to_dict(self, trainer: Trainer) -> dict[str, Any]:
        """JSON-able; with the depths and capacities that the trainer's arrays have."""
        its = {"depths": trainer.depths, "capacities": trainer.capacities}
        return dataclasses.asdict(self) | its

    @staticmethod
    def from_dict(content: Mapping[str, Any]) -> "RunState":
        """The reverse of `to_dict`, without what is the trainer's."""
        names = {field.name for field in dataclasses.fields(RunState)}
        known = {name: value for name, value in content.items() if name in names}
        return RunState(**known | {"evaluated_depths": tuple(content["evaluated_depths"])})


class Clock:
    """Adds seconds and compilations of this start, since `started`, to those of the run before."""

    def __init__(self, state: RunState, trainer: Trainer, started: float):
        self._state, self._trainer, self._started = state, trainer, started
        self._before = dataclasses.replace(state)

    def update(self) -> None:
        """Brings seconds and compilations of the run's state up to date."""
        state, before, programs = self._state, self._before, self._trainer.programs
        now = {
            "total": time.perf_counter() - self._started,
            **self._trainer.seconds,
            "compile": programs.seconds,
            AHEAD: programs.seconds_ahead,
        }
        # A run that is older than a part spent nothing on it.
        state.seconds = {name: before.seconds.get(name, 0.0) + spent for name, spent in now.items()}
        state.compilations = dict(Counter(before.compilations) + Counter(programs.counts))
        ahead = Counter(before.compilations_ahead) + Counter(programs.counts_ahead)
        state.compilations_ahead = dict(ahead)


def save(trainer: Trainer, state: RunState, store: CheckpointStore, clock: Clock) -> bool:
    """Saves when it is time, right after a growth, and at the end; says whether it did."""
    settings = trainer.settings
    grew = bool(state.growth) and state.growth[-1]["epoch"] == state.epoch
    is_over = state.is_over(settings.finetune)
    if state.epoch % settings.checkpoint.every and not grew and not is_over:
        return False
    with trainer.timed("checkpoint"):
        clock.update()
        saved = trainer.exact_state(), state.to_dict(trainer)
        store.save(state.epoch, *saved, state.validation_accuracy)
    return True
