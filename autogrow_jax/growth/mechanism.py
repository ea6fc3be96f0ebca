"""Decides when to grow and when to stop: the mechanism of the paper's policies.

docs/policies.md has the rules, in their order. Two things that are easily done otherwise: periodic
growth belongs to the end of an interval, so it still happens when that end is the last one allowed;
convergent growth belongs to the start of the next interval, which then never comes.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

from autogrow_jax.errors import UserError
from autogrow_jax.growth.placement import PolicySettings
from autogrow_jax.growth.policy import Allowed, Decision, Given, Measured, Policy, State, deepen


class Rule(NamedTuple):
    """When a run has stalled. Both functions are pure.

    Attributes:
      measure: `measure(last, accuracy, depths, measurements) -> entry`, after each epoch, where
        `last` is the entry before (None at first), `accuracy` in percent was measured with
        `depths`, and `measurements` holds more by name. JSON can hold an entry.
      stalled: `stalled(history) -> bool`, of the last `window + 1` entries.
      note: `note(history) -> numbers by name`, the notes of the decision.
    """

    measure: Callable[[Any, float, tuple[int, ...], Measured], Any]
    stalled: Callable[[list[Any]], bool]
    note: Callable[[list[Any]], dict[str, float]] = lambda history: {}


class Mechanism:
    """What happens after an epoch; `update` is pure, other methods change the state's entries."""

    # What the state holds beside what every mechanism has.
    more: ClassVar[State] = {"grew": False}  # whether the current interval began with growth

    def __init__(self, settings: PolicySettings, stop: Callable[[PolicySettings], Rule]):
        self.settings, self.stop, self.rule = settings, stop, stop(settings.at(0.0))

    def init(self) -> State:
        """Returns the state before the first epoch."""
        return {
            "epochs": 0,  # all, trials included
            "depths": list(self.settings.seed_depths),  # of the kept net
            "frozen": [False] * len(self.settings.seed_depths),
            "grown": None,  # the stage grown last
            "metric": [],  # the rule's history, of the last `window + 1` epochs
            "finished": False,
            **self.more,
        }

    def update(
        self, state: State, accuracy: float, *, measurements: Given = None
    ) -> tuple[State, Decision]:
        """Does what `Policy.update` says."""
        depths, seed_depths = tuple(state["depths"]), self.settings.seed_depths
        if len(depths) != len(seed_depths):
            raise UserError(
                f"this policy state has {len(depths)} stages (depths {depths}), the policy has "
                f"{len(seed_depths)} (seed_depths {seed_depths}). Continue a run with the "
                "policy that began it, or start anew from policy.init()."
            )
        if state["finished"]:
            return state, Decision("finetune", depths)
        state = {**state, "epochs": state["epochs"] + 1}
        given = Measured(measurements, f"growth policy {self.settings.name!r}")
        decision = self.decide(state, check_accuracy(accuracy), given)
        decision = decision._replace(notes=self.rule.note(state["metric"]))
        return {**state, "finished": decision.action == "finetune"}, decision

    def decide(self, state: State, accuracy: float, given: Measured) -> Decision:
        """Decides after an epoch, which the state has counted."""
        settings = self.settings
        self.measure(state, accuracy, given)
        if state["epochs"] % settings.interval:
            return conclude(state, False)
        stalled = self.stop(settings.at(accuracy)).stalled(state["metric"])
        over = state["epochs"] >= settings.max_growth_epochs
        # The order matters: a stage frozen now must not grow now.
        if stalled and (state["grew"] or not settings.patient):
            self.freeze(state)
        open_stages = settings.find_open(state)
        may_grow = not settings.patient or (stalled and not over)
        state["grew"] = may_grow and bool(open_stages)
        stages = settings.choose_stages(state, open_stages) if state["grew"] else ()
        return conclude(state, over or not open_stages, stages)

    def measure(self, state: State, accuracy: float, given: Measured) -> None:
        """Enters an epoch of the kept net in the rule's history."""
        history = state["metric"]
        last = history[-1] if history else None
        entry = self.rule.measure(last, accuracy, tuple(state["depths"]), given)
        state["metric"] = [*history[-self.settings.window :], entry]

    def freeze(self, state: State) -> None:
        """Freezes the stage that grew last in mode "group", and all of them in other modes."""
        everything, last = self.settings.mode != "group", state["grown"]
        state["frozen"] = [f or everything or i == last for i, f in enumerate(state["frozen"])]

    def policy(self) -> Policy:
        """Returns the two functions with what else a policy says."""
        settings = self.settings

        def restrict(allowed: Allowed) -> Policy:
            return type(self)(settings.restrict(allowed), self.stop).policy()

        schedule = "convergent" if settings.patient else "staircase"
        seed_depths = tuple(settings.seed_depths)
        return Policy(self.init, self.update, seed_depths, settings.name, restrict, schedule)


def conclude(state: State, over: bool, stages: Sequence[int] = ()) -> Decision:
    """Lets the kept net gain blocks in `stages`, and goes on; to fine-tuning if growth is over."""
    if stages:
        state |= {"depths": list(deepen(state["depths"], *stages)), "grown": stages[-1]}
    depths = tuple(state["depths"])
    return Decision("finetune" if over else "grow" if stages else "train", depths, tuple(stages))


def gain_rule(settings: PolicySettings) -> Rule:
    """Stalls as in the paper: the metric gained less than `threshold` points over the window."""
    return Rule(
        lambda last, accuracy, *_: settings.next_metric(last, accuracy),
        lambda history: settings.gain(history) < settings.threshold,
    )


def standard_error(accuracy: float, images: int) -> float:
    """How far an accuracy in percent, on so many images, is off by chance, in points; never 0."""
    # Agresti and Coull's: the binomial's, with two more that are right and two that are wrong.
    share = (accuracy / 100 * images + 2) / (images + 4)
    return 100 * math.sqrt(max(share * (1 - share), 0.0) / (images + 4))


def check_accuracy(accuracy: float, kind: str = "validation") -> float:
    """Returns the accuracy as a float; ValueError if it is not finite."""
    if not math.isfinite(accuracy):
        raise ValueError(
            f"the {kind} accuracy is {accuracy}; growth needs a finite number of percent. "
            "Training has most likely diverged: look at the loss, lower the learning rate."
        )
    return float(accuracy)


def fitted_gain(accuracies: Sequence[float]) -> float:
    """The rise, first to last, of the least-squares line through at least two accuracies."""
    epochs = len(accuracies) - 1
    middle = epochs / 2
    # fsum: a level curve must have a slope of exactly zero, which a threshold of 0 accepts.
    rise = math.fsum((epoch - middle) * a for epoch, a in enumerate(accuracies))
    return epochs * rise / math.fsum((epoch - middle) ** 2 for epoch in range(epochs + 1))
