"""What the policy decides, done to the trainer's net and noted in the memory."""

from collections.abc import Mapping, Sequence
from typing import Any

from autogrow_jax.growth import Policy
from autogrow_jax.reporting import Reporter
from autogrow_jax.reporting.result import format_depths
from autogrow_jax.settings import Settings
from autogrow_jax.training.foresight import foresee_capacities
from autogrow_jax.training.memory import Memory
from autogrow_jax.training.trainer import Trainer
from autogrow_jax.training.trials import Trials


class Grower:
    """Asks the policy after each epoch of the growth phase, and grows or tries as it says.

    A round of trials begins with the epoch after the decision, not with the decision: until then
    trainer and memory are those of the net that is kept, and can be saved. While a round goes on
    nothing can; a run that is killed then begins the round again.

    Args:
      settings: of the run.
      trainer: whose net grows.
      memory: of the same run.
      policy: None where nothing grows.
      reporter: told of each growth.
    """

    def __init__(
        self,
        settings: Settings,
        trainer: Trainer,
        memory: Memory,
        policy: Policy | None,
        reporter: Reporter,
    ):
        self._settings = settings
        self._trainer = trainer
        self._memory = memory
        self._policy = policy
        self._reporter = reporter
        self._trials: Trials | None = None
        self._foreseen_from: Any = None

    @property
    def in_trials(self) -> bool:
        """Whether the trainer may hold another net than the one that is kept."""
        return self._trials is not None

    def prepare(self) -> int:
        """Lets the net grow that the next epoch tries, if it tries one.

        Returns:
          The epoch whose random draws the next one uses: its own, or the first of a round.
        """
        memory = self._memory
        if memory.trial is None:
            return memory.epoch
        if self._trials is None:
            self._trials = Trials(self._trainer, memory.epoch)
        self._trials.begin(memory.trial, memory.train_accuracy)
        return self._trials.epoch

    def decide(self, line: dict[str, Any], measurements: Mapping[str, float]) -> None:
        """Asks the policy, in the growth phase, and does as it says.

        Args:
          line: of metrics.jsonl, of the epoch that is over.
          measurements: for the policy.
        """
        memory = self._memory
        if memory.phase != "growth" or self._policy is None:
            return
        memory.policy, decision = self._policy.update(
            memory.policy, line["validation_accuracy"], measurements=measurements
        )
        if self._trials is not None and memory.trial is not None:
            self._trials.end(memory.trial, line)
        if decision.action == "trial":
            if self._trials is not None:
                self._trials.hold(decision.best)
            (memory.trial,) = decision.stages
            return
        if self._trials is not None:
            self._close(self._trials, decision.stages)
        elif decision.stages:
            self._trainer.grow(decision.stages, memory.epoch, memory.train_accuracy)
            self._note_growth(decision.stages)
        if decision.action == "finetune":
            memory.phase, memory.phase_start = "finetune", memory.epoch
            self._reporter.message(
                f"growth ended after {memory.epoch} epochs;"
                f" fine-tuning for {self._settings.finetune.length(memory.phase_start)} epochs"
            )

    def compile_ahead(self, line: Mapping[str, Any], measurements: Mapping[str, float]) -> None:
        """Lets the programs be compiled that the next growth beyond a capacity needs.

        Once a stage is full and not before, as every run ends at a depth that nobody knows.

        Args:
          line: of metrics.jsonl, of the epoch that is over.
          measurements: of the same epoch, as the policy got them.
        """
        memory, trainer = self._memory, self._trainer
        if memory.phase != "growth" or self._policy is None or self.in_trials:
            trainer.programs.drop_ahead()
            return
        here = memory.depths, trainer.capacities
        is_full = any(d == c for d, c in zip(*here, strict=True))
        if not self._settings.growth.compile_ahead or not is_full or here == self._foreseen_from:
            return
        self._foreseen_from = here
        capacities = foresee_capacities(
            self._policy,
            memory.policy,
            *here,
            trainer.choose_capacities,
            {**measurements, "validation_accuracy": line["validation_accuracy"]},
            patience=2 * self._settings.growth.interval,
            trial=memory.trial,
        )
        if capacities:
            trainer.compile_ahead(capacities)

    def _close(self, trials: Trials, stages: Sequence[int]) -> None:
        kept = trials.close(stages)
        self._trials, self._memory.trial = None, None
        self._memory.capacities = self._trainer.capacities
        if kept is None:
            depths = format_depths(self._trainer.depths)
            self._reporter.message(f"no trial is kept; {depths} goes on")
            return
        self._note_growth(stages)
        self._memory.record(kept.line)

    def _note_growth(self, stages: Sequence[int]) -> None:
        memory, before = self._memory, self._memory.depths
        depths = list(before)
        for stage in stages:
            depths[stage] += 1
            memory.growth.append({"epoch": memory.epoch, "stage": stage, "depths": list(depths)})
        memory.depths, memory.capacities = self._trainer.depths, self._trainer.capacities
        self._reporter.growth(before, memory.depths, self._settings.growth.initializer)
