"""What the policy decides, done to the trainer's net: growth, trials, the end of growth."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from autogrow_jax.growth import Decision, Policy, ask, deepen
from autogrow_jax.optim import Schedule
from autogrow_jax.reporting import Reporter
from autogrow_jax.reporting.numbers import format_count, format_depths
from autogrow_jax.saving import Restored
from autogrow_jax.steps import Depths, Trainer, Trials
from autogrow_jax.training.run_state import RunState

# Epochs that are looked ahead for the end of growth.
_FORESEEN = 500


class Grower:
    """Asks the policy after each epoch of the growth phase, and grows or tries as it says.

    A round of trials begins with the epoch after the decision, not with the decision: until then
    trainer and state are those of the net that is kept, and can be saved. While a round goes on
    nothing can; a run that is killed then begins the round again. Without a policy nothing grows.
    `before_growth` is called while the trainer still has the net that is about to grow, or to be
    tried with a block more.
    """

    def __init__(
        self,
        trainer: Trainer,
        state: RunState,
        policy: Policy | None,
        schedule: Schedule,
        reporter: Reporter,
        before_growth: Callable[[], None] = lambda: None,
    ):
        self._trainer, self._state, self._before_growth = trainer, state, before_growth
        self._policy, self._schedule, self._reporter = policy, schedule, reporter
        self.trials: Trials | None = None  # While a round goes on.
        self._is_begun = False  # The trial that the next epoch goes on with.
        self._foreseen_from: Any = None
        # Of growth, with the next: the fewest there can be. None where that is not known.
        self.epochs_left: int | None = None

    def resume(self, restored: Restored | None) -> None:
        """Takes up the round of trials that a start goes on with, if it does amid one."""
        if restored is not None and (told := restored.memory.get("trials")):
            self.trials, self._is_begun = Trials.resumed(self._trainer, told, restored.more), True

    @property
    def in_trials(self) -> bool:
        """Whether the trainer may hold another net than the one that is kept."""
        return self.trials is not None

    def prepare(self) -> int:
        """Grows the net that the next epoch tries, if any; returns the epoch whose draws it uses.

        That is its own, or the first of a round; of a front the one that is as far in the phase, so
        that all candidates see the same draws.
        """
        state = self._state
        if state.trial is None:
            return state.phase_start + state.epoch_of_phase
        if self.trials is None:
            self.trials = Trials(self._trainer, state.epoch)
        if not self._is_begun:
            self.trials.begin(state.trial, state.train_accuracy)
        self._is_begun = False
        return self.trials.epoch

    def decide(self, line: dict[str, Any], measurements: Mapping[str, float]) -> Decision | None:
        """Asks the policy, in the growth phase; its notes go into the line of the epoch."""
        state = self._state
        if state.phase != "growth" or self._policy is None:
            return None
        kept = self._trainer.depths if self.trials is None else self.trials.base_depths
        accuracy = line["validation_accuracy"]
        state.policy, decision = ask(self._policy, state.policy, kept, accuracy, measurements)
        line |= {"notes": decision.notes} if decision.notes else {}
        if self._trainer.settings.log.progress and self._policy.foreseeable:
            known = {**measurements, "validation_accuracy": accuracy}
            given = self._policy, state.policy, decision, kept, known, line["seconds"]
            self.epochs_left = foresee_end(*given)
        return decision

    def follow(self, decision: Decision | None, line: dict[str, Any]) -> None:
        """Does as the policy decided after the epoch of a line; nothing where it was not asked."""
        state = self._state
        if decision is None:
            return
        if self.trials is not None and state.trial is not None:
            self.trials.end(state.trial, line)
        if self.trials is None and decision.stages:
            self._before_growth()
        if decision.action == "trial":
            if self.trials is not None:
                self.trials.hold(decision.best)
            (state.trial,) = decision.stages
        elif self.trials is not None:
            self._close(self.trials, decision.stages)
        elif decision.stages:
            before = self._trainer.depths
            passed = self._trainer.grow(decision.stages, state.epoch, state.train_accuracy)
            self._note_growth(before, zip(decision.stages, passed, strict=True))
        if decision.action == "finetune":
            state.phase, state.phase_start = "finetune", state.epoch
            finetune = self._trainer.settings.finetune
            length = finetune.length(state.phase_start)
            if length == 0:  # The net as it grew is what the run ends with.
                state.evaluated_depths = self._trainer.depths
            state.perturbed = share = finetune.share(state.phase_start, self._schedule)
            how = f", from weights moved by {share:g} towards fresh ones" if share else ""
            self._reporter.message(
                f"growth ended after {state.epoch} epochs; fine-tuning for"
                f" {format_count(length, 'epoch')}{how}"
            )

    def compile_ahead(self, line: Mapping[str, Any], measurements: Mapping[str, float]) -> None:
        """Lets the programs be compiled that the next growth beyond a capacity needs.

        Once a stage is full and not before, as every run ends at a depth that nobody knows; and
        not for a policy that cannot be asked ahead of time.
        """
        state, trainer, growth = self._state, self._trainer, self._trainer.settings.growth
        if state.phase != "growth" or self._policy is None or self.in_trials:
            trainer.programs.drop_ahead()
            return
        here = trainer.depths, trainer.capacities
        is_full = any(d == c for d, c in zip(*here, strict=True))
        may_ask = growth.compile_ahead and self._policy.foreseeable
        if not may_ask or not is_full or here == self._foreseen_from:
            return
        self._foreseen_from = here
        known = {**measurements, "validation_accuracy": line["validation_accuracy"]}
        given = self._policy, state.policy, *here, trainer.choose_capacities, known
        foreseen = foresee_growths(*given, 2 * growth.interval, state.trial)
        if growths := tuple(islice(foreseen, trainer.programs.threads)):
            trainer.compile_ahead(*growths)

    def _close(self, trials: Trials, stages: Sequence[int]) -> None:
        kept = trials.close(stages)
        self.trials, self._state.trial, self._state.kept = None, None, list(stages)
        if kept is None:
            depths = format_depths(self._trainer.depths)
            self._reporter.message(f"no trial is kept; {depths} goes on")
        else:
            self._note_growth(trials.base_depths, [(kept.stage, kept.depths)])
            self._state.record(kept.line)

    def _note_growth(self, before: Depths, grown: Iterable[tuple[int, Depths]]) -> None:
        """Notes each stage that gained a block, with the depths then, and tells of the growth."""
        epoch, initializer = self._state.epoch, self._trainer.settings.growth.initializer
        self._state.growth += [{"epoch": epoch, "stage": s, "depths": list(d)} for s, d in grown]
        self._reporter.growth(before, self._trainer.depths, initializer)


def foresee_end(
    policy: Policy,
    state: dict[str, Any],
    decision: Decision,
    depths: Depths,
    measurements: Mapping[str, float],
    seconds: float,
) -> int | None:
    """Foresees how many epochs of growth are left, each of `seconds`, if nothing else changes.

    None where they are `_FORESEEN` and no end. `decision` was the last, on a net of `depths`.
    """
    measured = dict(measurements)
    for epochs in range(_FORESEEN):
        if decision.action == "finetune":
            return epochs
        depths = depths if decision.action == "trial" else decision.depths
        measured["seconds"] += seconds
        state, decision = ask(policy, state, depths, measured["validation_accuracy"], measured)
    return None


def foresee_growths(
    policy: Policy,
    state: dict[str, Any],
    depths: Depths,
    capacities: Depths,
    choose: Callable[[Depths, Depths], Depths],
    measurements: Mapping[str, float],
    patience: int,
    trial: int | None = None,
) -> Iterator[tuple[Depths, ...]]:
    """Foresees the capacities of growths that there is no room for, one after the other.

    The policy is asked as if accuracy went on to rise, so that growth pays. Where it does not grow
    on that for `patience` epochs, accuracy stalls for as long, which is what convergent growth
    waits for.

    Args:
      policy: `foreseeable`, so that asking it changes nothing; with its state.
      depths: of the net that the policy lets grow.
      choose: depths and the capacities so far to those that they are given room in.
      measurements: of the last epoch, with validation_accuracy; accuracies rise, the others stay.
      trial: stage that the policy has decided to try, if any.

    Yields:
      Of each growth its capacities: several, where one of several stages takes them on its way.
    """
    measured = dict(measurements)
    stages: Sequence[int] = () if trial is None else (trial,)
    on_trial, waited = trial is not None, 0
    while waited < 2 * patience:
        deeper, found = depths, [capacities]
        for stage in stages:
            deeper = deepen(deeper, stage)
            wanted = choose(deeper, found[-1])
            if wanted != found[-1]:
                found.append(wanted)
        if len(found) > 1:
            yield tuple(found[1:])
            if on_trial:  # Which net is kept, nobody knows.
                return
            capacities = found[-1]
        if not on_trial:
            depths = deeper
        if waited < patience:
            for name in ("validation_accuracy", "train_accuracy"):
                # Never beyond 100 %, which a policy may take for an error.
                measured[name] += min(1.0, (100.0 - measured[name]) / 10)
        state, decision = ask(policy, state, depths, measured["validation_accuracy"], measured)
        if decision.action == "finetune" and not decision.stages:
            return
        on_trial, stages = decision.action == "trial", decision.stages
        waited = 0 if stages and not on_trial else waited + 1
