"""Decides when to grow and when to stop: the mechanism of the paper's policies.

1.  After each epoch the accuracy enters the metric: "max", the highest accuracy so far over all
    architectures, or "avg", `0.95 * average + 0.05 * accuracy` starting from 0 (not corrected).
2.  A stop rule says whether the curve has *stalled*. The paper's, `gain_rule`: the metric gained
    less than `threshold` over the window. While that is not full the gain is the metric itself, so
    no curve above the threshold stalls.
3.  Things happen only when an interval ends, that is after every `interval` epochs, in this order:
    *freeze* (only if stalled), *leave* if every stage is frozen or at its maximum depth, *grow*.
4.  Freezing is for ever. Mode "group" freezes the stage that grew last, so nothing before the first
    growth; the other modes freeze every stage.
5.  Mode "group" adds one block to the first open stage after the one that grew last, round robin,
    from stage 0. The other modes change all open stages at once. No stage exceeds its maximum.
6.  The growth phase also ends with the interval in which `max_growth_epochs` epochs are reached,
    as the authors' loop counts whole intervals: an interval of 3 and a limit of 400 make 402.

|            | window   | freezes, if stalled, when       | grows             |
|------------|----------|---------------------------------|-------------------|
| periodic   | `window` | any interval ends               | at every interval |
| convergent | interval | an interval with growth ends    | only when stalled |

Periodic growth belongs to the end of an interval, so it still happens when that end is the last
one allowed. Convergent growth belongs to the start of the next interval, which then never comes.

Reference: Wen, Yan, Chen, Li, "AutoGrow: Automatic Layer Growing in Deep Convolutional Networks",
KDD 2020, arXiv 1906.02909.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from autogrow_jax.growth.placement import PolicySettings, choose_stages, find_open_stages
from autogrow_jax.growth.policy import (
    Action,
    Allowed,
    Decision,
    Depths,
    Measurements,
    Policy,
    State,
    deepen,
    read_depths,
)

_AVERAGE_DECAY = 0.95

History = list[Any]


class Rule(NamedTuple):
    """When a run has stalled. Both functions are pure.

    Attributes:
      measure: `measure(last, accuracy, depths, measurements) -> entry`, after each epoch, where
        `last` is the entry before (None at first), `accuracy` in percent was measured with
        `depths`, and `measurements` holds more by name. JSON can hold an entry.
      stalled: `stalled(history) -> bool`, of the last `window + 1` entries.
    """

    measure: Callable[[Any, float, Depths, Measurements], Any]
    stalled: Callable[[History], bool]

    def push(
        self, history: History, accuracy: float, depths: Depths, given: Measurements, window: int
    ) -> History:
        """Adds an epoch, and keeps the last `window + 1`."""
        last = history[-1] if history else None
        return [*history[-window:], self.measure(last, accuracy, depths, given)]


StopRule = Callable[[PolicySettings], Rule]


def build_policy(settings: PolicySettings, stop: StopRule) -> Policy:
    """Makes the mechanism of this module, with a rule to say when the curve has stalled."""
    rule = stop(settings)
    seed_depths = tuple(settings.seed_depths)

    def init() -> State:
        return {
            "epochs": 0,
            "depths": list(seed_depths),
            "frozen": [False] * len(seed_depths),
            "grown": None,  # the stage grown last
            "grew": False,  # whether the current interval began with growth
            "metric": [],  # the rule's history, of the last `window + 1` epochs
            "finished": False,
        }

    def update(
        state: State, accuracy: float, *, measurements: Measurements | None = None
    ) -> tuple[State, Decision]:
        depths = read_depths(state, seed_depths)
        if state["finished"]:
            return state, Decision("finetune", depths)
        metric = rule.push(state["metric"], accuracy, depths, measurements or {}, settings.window)
        epochs = state["epochs"] + 1
        state = {**state, "epochs": epochs, "metric": metric}
        if epochs % settings.interval:
            return state, Decision("train", depths)
        stalled = rule.stalled(metric)
        over = epochs >= settings.max_growth_epochs
        may_freeze, may_grow = True, True
        if settings.patient:
            may_freeze, may_grow = state["grew"], stalled and not over
        # The order matters: a stage frozen now must not grow now.
        frozen, grown = list(state["frozen"]), state["grown"]
        if stalled and may_freeze:
            frozen = [f or settings.mode != "group" or i == grown for i, f in enumerate(frozen)]
        open_stages = find_open_stages(depths, frozen, settings)
        over = over or not open_stages
        grew = may_grow and bool(open_stages)
        stages: tuple[int, ...] = ()
        if grew:
            stages = choose_stages(depths, open_stages, grown, epochs, settings)
            depths = deepen(depths, *stages)
            grown = stages[-1] if stages else grown
        state |= {"depths": list(depths), "frozen": frozen, "grown": grown, "grew": grew}
        action: Action = "finetune" if over else "grow" if stages else "train"
        return {**state, "finished": over}, Decision(action, depths, stages)

    def restrict(allowed: Allowed) -> Policy:
        return build_policy(settings.restrict(allowed), stop)

    schedule = "convergent" if settings.patient else "staircase"
    return Policy(init, update, seed_depths, settings.name, restrict, schedule)


def gain_rule(settings: PolicySettings) -> Rule:
    """Stalls as in the paper: the metric gained less than `threshold` points over the window."""
    return Rule(
        lambda last, accuracy, *_: next_metric(last, accuracy, settings.metric),
        lambda history: gain(history, settings.window) < settings.threshold,
    )


def check_accuracy(accuracy: float, kind: str = "validation") -> float:
    """Returns the accuracy as a float; ValueError if it is not finite."""
    accuracy = float(accuracy)
    if not math.isfinite(accuracy):
        raise ValueError(
            f"the {kind} accuracy is {accuracy}; growth needs a finite number of percent. "
            "Training has most likely diverged: look at the loss, lower the learning rate."
        )
    return accuracy


def next_metric(last: float | None, accuracy: float, metric: str) -> float:
    """The metric after one more epoch: "max" so far, or "avg", exponential from 0."""
    accuracy = check_accuracy(accuracy)
    if metric == "avg":
        return _AVERAGE_DECAY * (last or 0.0) + (1.0 - _AVERAGE_DECAY) * accuracy
    return accuracy if last is None else max(last, accuracy)


def gain(metric: Sequence[float], window: int) -> float:
    """What the metric gained over `window` epochs; all of it before the window is full."""
    return metric[-1] - metric[-1 - window] if len(metric) > window else metric[-1]


def fitted_gain(accuracies: Sequence[float]) -> float:
    """The rise, first to last, of the least-squares line through at least two accuracies."""
    epochs = len(accuracies) - 1
    middle = epochs / 2
    # fsum: a level curve must have a slope of exactly zero, which a threshold of 0 accepts.
    rise = math.fsum((epoch - middle) * a for epoch, a in enumerate(accuracies))
    return epochs * rise / math.fsum((epoch - middle) ** 2 for epoch in range(epochs + 1))
