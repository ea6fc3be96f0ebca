"""Decides when to grow and when to stop: the mechanism of the paper's policies, and stop rules.

A stop rule says whether the curve has stalled. The paper's is `gain_rule`, as in 1 and 2; any may
be given to `periodic` as `stop`.

1.  After each epoch the accuracy enters the metric: "max", the highest accuracy so far over all
    architectures, or "avg", `0.95 * average + 0.05 * accuracy` starting from 0 (not corrected).
2.  The curve has *stalled* when `gain < threshold`, where `gain = metric[now] - metric[window
    epochs ago]`. While fewer than `window + 1` epochs exist, `gain = metric[now]`.
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
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from autogrow_jax.errors import UserError
from autogrow_jax.growth.placement import PolicySettings, choose_stages, find_open_stages
from autogrow_jax.growth.policy import (
    Action,
    Allowed,
    Decision,
    Policy,
    State,
    check_state,
    deepen,
    find_measurement,
)

_AVERAGE_DECAY = 0.95

Depths = tuple[int, ...]
History = list[Any]
Measurements = Mapping[str, float]


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
    num_stages = len(seed_depths)

    def init() -> State:
        return {
            "epochs": 0,
            "depths": list(seed_depths),
            "frozen": [False] * num_stages,
            "grown": None,  # the stage grown last
            "grew": False,  # whether the current interval began with growth
            "metric": [],  # the rule's history, of the last `window + 1` epochs
            "finished": False,
        }

    def update(
        state: State,
        accuracy: float,
        *,
        measurements: Mapping[str, float] | None = None,
    ) -> tuple[State, Decision]:
        depths = tuple(state["depths"])
        check_state(depths, seed_depths)
        if state["finished"]:
            return state, Decision("finetune", depths)
        metric = rule.push(state["metric"], accuracy, depths, measurements or {}, settings.window)
        epochs = state["epochs"] + 1
        over = False
        frozen = list(state["frozen"])
        grown, grew = state["grown"], state["grew"]
        stages: tuple[int, ...] = ()
        if epochs % settings.interval == 0:
            stalled = rule.stalled(metric)
            over = epochs >= settings.max_growth_epochs
            may_freeze, may_grow = True, True
            if settings.patient:
                may_freeze, may_grow = grew, stalled and not over
            # The order matters: a stage frozen now must not grow now.
            if stalled and may_freeze:
                for stage in range(num_stages):
                    frozen[stage] |= settings.mode != "group" or stage == grown
            open_stages = find_open_stages(depths, frozen, settings)
            over = over or not open_stages
            grew = may_grow and bool(open_stages)
            if grew:
                stages = choose_stages(depths, open_stages, grown, epochs, settings)
                depths = deepen(depths, *stages)
                grown = stages[-1] if stages else grown
        new_state = {
            "epochs": epochs,
            "depths": list(depths),
            "frozen": frozen,
            "grown": grown,
            "grew": grew,
            "metric": metric,
            "finished": over,
        }
        action: Action = "finetune" if over else "grow" if stages else "train"
        return new_state, Decision(action, depths, stages)

    def restrict(allowed: Allowed) -> Policy:
        return build_policy(settings.restrict(allowed), stop)

    schedule = "convergent" if settings.patient else "staircase"
    return Policy(init, update, seed_depths, settings.name, restrict, schedule)


def gain_rule(settings: PolicySettings) -> Rule:
    """Stalls as in the paper: the metric gained less than `threshold` points over the window."""
    window, threshold = settings.window, settings.threshold
    return Rule(
        lambda last, accuracy, *_: _metric(last, accuracy, settings.metric),
        lambda history: _gain(history, window) < threshold,
    )


def slope_rule(settings: PolicySettings) -> Rule:
    """Stalls where the line through a full window rises by less than `threshold` points."""
    window, threshold = settings.window, settings.threshold
    return Rule(
        lambda last, accuracy, *_: check_accuracy(accuracy),
        lambda history: len(history) > window and fitted_gain(history) < threshold,
    )


def gap_rule(max_gap: float) -> StopRule:
    """Stalls by the table of `autogrow_jax.growth.gap`."""

    def make(settings: PolicySettings) -> Rule:
        window, threshold = settings.window, settings.threshold

        def measure(last: Any, accuracy: float, depths: Depths, given: Measurements) -> list[float]:
            del depths
            train = find_measurement(given, "train_accuracy", "growth policy 'gap'")
            train = check_accuracy(train, "train")
            last_validation, last_train, _ = last or (None, None, None)
            return [
                _metric(last_validation, accuracy, settings.metric),
                _metric(last_train, train, settings.metric),
                train - float(accuracy),
            ]

        def stalled(history: History) -> bool:
            validation, train, gaps = zip(*history, strict=True)
            if _gain(validation, window) >= threshold:
                return False
            return fmean(gaps[-window:]) > max_gap or _gain(train, window) < threshold

        return Rule(measure, stalled)

    return make


def efficiency_rule(cost: Callable[[Depths], float], price: float) -> StopRule:
    """Stalls where the gain is below `price` points for each doubling of cost over the window."""

    def make(settings: PolicySettings) -> Rule:
        def measure(last: Any, accuracy: float, depths: Depths, given: Measurements) -> list[float]:
            del given
            spent = float(cost(depths))
            if not (math.isfinite(spent) and spent > 0.0):
                raise UserError(
                    f"the cost of depths {depths} is {spent}; growth policy 'efficiency' needs a"
                    " finite number above 0"
                )
            return [_metric(last and last[0], accuracy, settings.metric), spent]

        def stalled(history: History) -> bool:
            metric, costs = zip(*history, strict=True)
            # All of the history that is kept: `window` epochs, or what there is of them.
            doublings = math.log2(costs[-1] / costs[0])
            return _gain(metric, settings.window) < max(settings.threshold, price * doublings)

        return Rule(measure, stalled)

    return make


def check_accuracy(accuracy: float, kind: str = "validation") -> float:
    """Returns the accuracy as a float; ValueError if it is not finite."""
    accuracy = float(accuracy)
    if not math.isfinite(accuracy):
        raise ValueError(
            f"the {kind} accuracy is {accuracy}; growth needs a finite number of percent. "
            "Training has most likely diverged: look at the loss, lower the learning rate."
        )
    return accuracy


def fitted_gain(accuracies: Sequence[float]) -> float:
    """Computes the rise, first to last, of the least-squares line through accuracies.

    Args:
      accuracies: at least two, in percent, one epoch apart.

    Returns:
      Slope times the number of epochs between first and last, in percentage points.
    """
    epochs = len(accuracies) - 1
    middle = epochs / 2
    # fsum: a level curve must have a slope of exactly zero, which a threshold of 0 accepts.
    rise = math.fsum((epoch - middle) * a for epoch, a in enumerate(accuracies))
    return epochs * rise / math.fsum((epoch - middle) ** 2 for epoch in range(epochs + 1))


def _metric(last: float | None, accuracy: float, metric: str) -> float:
    """The metric after one more epoch: "max" so far, or "avg", exponential from 0."""
    accuracy = check_accuracy(accuracy)
    if metric == "avg":
        return _AVERAGE_DECAY * (last or 0.0) + (1.0 - _AVERAGE_DECAY) * accuracy
    return accuracy if last is None else max(last, accuracy)


def _gain(metric: Sequence[float], window: int) -> float:
    """What the metric gained over `window` epochs; all of it before the window is full.

    So a rule that compares the gain cannot fire on a curve above its threshold before then.
    """
    return metric[-1] - metric[-1 - window] if len(metric) > window else metric[-1]
