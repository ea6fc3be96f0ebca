"""What a run remembers beside its arrays; it travels in every checkpoint as JSON."""

import dataclasses
from collections.abc import Mapping
from typing import Any

TIMED = ("train", "evaluate", "compile", "growth", "checkpoint")
# Beside these, not among them: the run did not wait for it.
AHEAD = "compile_ahead"


@dataclasses.dataclass
class Memory:
    """The host's side of a run between two epochs.

    Attributes:
      epoch: epochs done.
      phase: "growth", "finetune" or "scratch".
      phase_start: epoch with which the phase began.
      depths: of the network that the next epoch trains, or starts a trial from.
      evaluated_depths: of the network whose validation accuracy the last epoch measured; the
        same, or before the growth that followed. The first blocks of the saved arrays are it.
      capacities: the padded form's; kept so that a resumed run executes the same programs.
      policy: the policy's state.
      trial: stage that the next epoch tries to grow; None where it tries nothing. The saved arrays
        are always those of a network that was kept.
      trial_epochs: epochs of trial so far, those of networks that were kept included.
      train_accuracy: of the last epoch in percent, as all accuracies here of kept networks.
      validation_accuracy: of the last epoch in percent.
      best_validation_accuracy: so far, in percent.
      growth: a dict for each block added: epoch, stage, depths.
      seconds: spent so far, by what on, over all starts; "total" too, and `AHEAD`, of a thread
        beside.
      compilations: of programs that were called so far, by kind.
      compilations_ahead: of these, those made by the thread beside.
    """

    epoch: int
    phase: str
    phase_start: int
    depths: tuple[int, ...]
    evaluated_depths: tuple[int, ...]
    capacities: tuple[int, ...]
    policy: dict[str, Any]
    trial: int | None = None
    trial_epochs: int = 0
    train_accuracy: float = 0.0
    validation_accuracy: float = 0.0
    best_validation_accuracy: float = 0.0
    growth: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    seconds: dict[str, float] = dataclasses.field(
        default_factory=lambda: {"total": 0.0, **dict.fromkeys((*TIMED, AHEAD), 0.0)}
    )
    compilations: dict[str, int] = dataclasses.field(default_factory=dict)
    compilations_ahead: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def epoch_of_phase(self) -> int:
        return self.epoch - self.phase_start

    def record(self, line: Mapping[str, Any]) -> None:
        """Takes over what an epoch measured on a network that is kept.

        Args:
          line: of metrics.jsonl.
        """
        self.evaluated_depths = tuple(line["depths"])
        self.train_accuracy = line["train_accuracy"]
        self.validation_accuracy = line["validation_accuracy"]
        self.best_validation_accuracy = max(self.best_validation_accuracy, self.validation_accuracy)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(content: dict[str, Any]) -> "Memory":
        """The reverse of `to_dict`."""
        tuples = {
            name: tuple(content[name]) for name in ("depths", "evaluated_depths", "capacities")
        }
        return Memory(**{**content, **tuples})
