"""What a growth policy is, how it is asked, and what it does on a recorded accuracy curve.

A policy sees one number an epoch, the validation accuracy, and answers with depths. It never sees
the network.
"""

import itertools
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

from autogrow_jax.errors import UserError, nearest

State = dict[str, Any]
Depths = tuple[int, ...]
Measurements = Mapping[str, float]
Given = Measurements | None
Threshold = float | Callable[[float], float]  # Points, or accuracy in percent -> points.
Allowed = Callable[[Depths], bool]
Action = Literal["train", "grow", "trial", "finetune"]
# What a run measures in an epoch, beside the accuracy, and a policy may look at.
MEASUREMENTS = {
    "train_loss": "nats, of the epoch's batches, each before its step",
    "train_accuracy": "percent, of the same",
    "validation_loss": "nats, after the epoch",
    "seconds": "since the run began, over all its starts",
    "latency": "seconds that the net took for an image in validation",
}


class Decision(NamedTuple):
    """What to do before the next epoch; the net gains what it lacks of `depths`.

    "trial" opens a round of trials or goes on with one: take the net as it was when the round
    began, let one stage grow a block, train that net for an epoch and tell its accuracy. The first
    decision that is no trial closes the round. It grows the one tried stage whose net is kept, with
    the weights of its trial; or none, and the net that all trials began with goes on.

    Attributes:
      action: "train" (same net, next epoch), "grow" (grow, then go on with the growth phase),
        "trial" (as above) or "finetune" (the growth phase is over, after a last growth perhaps).
      depths: blocks in each stage after this decision; of a trial, those of the net it trains.
      stages: index of each stage that gains a block, once per block, in the order in which they
        grow; `ask` fills in what is left out, ascending.
      best: only with "trial": of the stages tried before in this round, the one that may still be
        kept. The weights of the others are dropped; None drops them all.
      notes: numbers by name that led to it, for metrics.jsonl and the plot; they decide nothing.
    """

    action: Action
    depths: Depths
    stages: tuple[int, ...] = ()
    best: int | None = None
    notes: Measurements = {}  # noqa: RUF012 (nobody writes into it)


class Policy(NamedTuple):
    """A growth policy: two pure functions. Write your own by filling the first four fields.

    Attributes:
      init: `init() -> state`, a dict of plain Python values that stays the same through
        `json.loads(json.dumps(state))`, so that it fits in any checkpoint.
      update: `update(state, accuracy, *, measurements=None) -> (new_state, decision)`, called
        once after each epoch with the validation accuracy in percent and, for policies that want
        them, the `MEASUREMENTS` of that epoch by name. The given state is never changed. Once a
        decision said "finetune", all later ones do, and the state stays.
      seed_depths: blocks in each stage before the first epoch.
      name: the policy's name in configs and reports.
      restrict: `restrict(allowed) -> Policy`, the same policy, which closes each stage whose next
        block would make depths that `allowed(depths)` refuses, beside those it closed before.
        None where it cannot do that.
      schedule: how the learning rate falls in the fine-tune phase where `finetune.schedule` is
        "auto": a name of `autogrow_jax.optim`.
      foreseeable: whether a run may ask what comes, with accuracies that it assumes, to compile
        for the next growth ahead. False for a policy that such questions would mislead or change.
    """

    init: Callable[[], State]
    update: Callable[..., tuple[State, Decision]]
    seed_depths: Depths
    name: str = "custom"
    restrict: "Callable[[Allowed], Policy] | None" = None
    schedule: str = "staircase"
    foreseeable: bool = True


class Measured(dict[str, float]):
    """The measurements of an epoch; UserError, which names who asks, for one that is missing."""

    def __init__(self, given: Given, asker: str):
        super().__init__(given or {})
        self._asker = asker

    def __missing__(self, name: str) -> float:
        known = "" if name in MEASUREMENTS else nearest(name, MEASUREMENTS)
        raise UserError(
            f"{self._asker} needs the measurement {name!r} at every update{known}; give"
            f" measurements={{{name!r}: ...}}, or to `replay` the lines of a metrics.jsonl as"
            f" measurements; given: {', '.join(map(repr, self)) or 'none'}"
        )


def ask(
    policy: Policy, state: State, depths: Depths, accuracy: float, measurements: Given = None
) -> tuple[State, Decision]:
    """Asks a policy what comes after an epoch, and holds it to what a decision may say.

    A growth, or a trial, would start from a net of `depths`; the rest is as for `Policy.update`.

    Raises UserError for a decision that these depths, or its own fields, contradict.
    """
    given = Measured(measurements, f"growth policy {policy.name!r}")
    state, decision = policy.update(state, accuracy, measurements=given)
    try:
        return state, _complete(decision, tuple(depths))
    except UserError as error:
        raise UserError(f"growth policy {policy.name!r}: {error}") from None


def _complete(decision: Decision, before: Depths) -> Decision:
    action = decision.action
    if action not in get_args(Action):
        raise UserError(f"there is no action {action!r}{nearest(action, get_args(Action))}")
    said = f"{action!r} with depths {decision.depths}"
    try:
        depths = tuple(map(operator.index, decision.depths))
        notes = {str(name): float(value) for name, value in decision.notes.items()}
    except (AttributeError, TypeError, ValueError):
        way_out = "give a whole number for each stage, and notes as numbers by name"
        raise UserError(f"{said}, notes {decision.notes}; {way_out}") from None
    if len(depths) != len(before):
        raise UserError(f"{said}, of {len(depths)} stages; the net {before} has {len(before)}")
    gains = [new - old for new, old in zip(depths, before, strict=True)]
    if min(gains, default=0) < 0:
        raise UserError(f"{said}; the net has {before}, and cannot shrink")
    gained = tuple(stage for stage, gain in enumerate(gains) for _ in range(gain))
    stages = tuple(decision.stages) or gained
    if tuple(sorted(stages)) != gained:
        raise UserError(
            f"{said} and stages {stages}; the depths, of a net with {before}, ask for {gained};"
            " correct the one, or leave stages out"
        )
    if action == "trial" and len(stages) != 1:
        raise UserError(f"{said} of a net with {before}; a trial adds one block")
    if action == "grow" and not stages:
        raise UserError(
            f"'grow' to depths {depths}, but the net has them already; name deeper ones, or say"
            " 'train'"
        )
    if action == "train" and stages:
        raise UserError(f"{said}, but the net has {before}; say 'grow'")
    return decision._replace(depths=depths, stages=stages, notes=notes)


def deepen(depths: Sequence[int], *stages: int) -> Depths:
    """Adds to depths a block more in each of `stages`, one of which may come several times."""
    return tuple(depth + stages.count(stage) for stage, depth in enumerate(depths))


class Replay(NamedTuple):
    """The course of a run as a policy steers it.

    Attributes:
      growth: `(epoch, depths)` for each growth; the net has `depths` from that epoch on (from 0).
        One with which the phase ends counts too, and a trial that was kept, from its round's end.
      depths: blocks in each stage at the end.
      growth_epochs, finetune_epochs: length of the phases; all recorded epochs, and 0, where
        growth did not end.
      finished: whether the policy ended the growth phase within the recorded curve.
      learning_rates: rate of each epoch, both phases; empty if no schedule was given.
      trial_epochs: of the growth phase, those that trained a net on trial, kept or not.
      notes: those of each decision, an entry for each epoch of the growth phase.
    """

    growth: list[tuple[int, Depths]]
    depths: Depths
    growth_epochs: int
    finetune_epochs: int
    finished: bool
    learning_rates: list[float]
    trial_epochs: int = 0
    notes: Sequence[Measurements] = ()

    @property
    def total_epochs(self) -> int:
        """Epochs of both phases together."""
        return self.growth_epochs + self.finetune_epochs

    @property
    def lr_runs(self) -> list[list[float]]:
        """`[[rate, epochs], ...]`: `learning_rates` with equal neighbours put together."""
        return [[rate, len(list(run))] for rate, run in itertools.groupby(self.learning_rates)]


def replay(
    policy: Policy,
    accuracies: Iterable[float],
    finetune_epochs: int | None = None,
    schedule: Callable[[str, int, int], float] | None = None,
    measurements: Iterable[Measurements] | None = None,
) -> Replay:
    """Runs a policy over a recorded curve, which does not answer to the depths.

    Args:
      accuracies: validation accuracy in percent after each epoch, of the net trained then, on
        trial or not. Those after the end of the growth phase are taken as the fine-tune phase.
      finetune_epochs: length of the fine-tune phase; None takes what is left of `accuracies`.
      schedule: `schedule(phase, epoch, epochs) -> rate`, as `autogrow_jax.optim.make_schedule`
        makes it.
      measurements: of each epoch, by name; the lines of a metrics.jsonl serve as they are, where
        the seconds since the run began are called `elapsed`.

    Raises:
      UserError: if `finetune_epochs` is negative, there are fewer measurements than epochs, or none
        that the policy needs.
      ValueError: if an accuracy of the growth phase is not finite.

    Examples:
      >>> from autogrow_jax.growth import periodic
      >>> replay(periodic(interval=2), [50.0, 60.0, 61.0, 62.0]).growth
      [(2, (2, 1, 1)), (4, (2, 2, 1))]
    """
    if finetune_epochs is not None and finetune_epochs < 0:
        raise UserError(f"finetune_epochs={finetune_epochs} must be at least 0, or None.")
    curve = list(accuracies)
    measured = [{}] * len(curve) if measurements is None else list(measurements)
    if len(measured) < len(curve):
        raise UserError(
            f"there are {len(measured)} measurements for {len(curve)} accuracies; give one for each"
        )
    state, depths = policy.init(), policy.seed_depths
    growth: list[tuple[int, Depths]] = []
    notes: list[Measurements] = []
    growth_epochs, trial_epochs, action = 0, 0, "train"
    for accuracy, given in zip(curve, measured, strict=False):
        trial_epochs += action == "trial"
        growth_epochs += 1
        since = {"seconds": given["elapsed"]} if "elapsed" in given else {}
        state, decision = ask(policy, state, depths, accuracy, {**given, **since})
        action = decision.action
        notes.append(decision.notes)
        if action == "trial":
            continue
        depths = decision.depths
        if decision.stages:
            growth.append((growth_epochs, depths))
        if action == "finetune":
            break
    finished = action == "finetune"
    if finetune_epochs is None or not finished:
        finetune_epochs = len(curve) - growth_epochs if finished else 0
    rates: list[float] = []
    if schedule is not None:
        for phase, length in (("growth", growth_epochs), ("finetune", finetune_epochs)):
            rates += [schedule(phase, epoch, finetune_epochs) for epoch in range(length)]
    counts = growth_epochs, finetune_epochs, finished
    return Replay(growth, depths, *counts, rates, trial_epochs, notes)
