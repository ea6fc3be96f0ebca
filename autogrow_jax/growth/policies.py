"""The paper's growth policies, and three that stop by other rules."""

import math
from collections.abc import Callable
from statistics import fmean
from typing import Any

from autogrow_jax.errors import UserError
from autogrow_jax.growth.mechanism import Mechanism, Rule, check_accuracy, fitted_gain, gain_rule
from autogrow_jax.growth.placement import LEAST, MOST, PolicySettings, Stages, check_number, named
from autogrow_jax.growth.policy import Depths, Measurements, Policy, Threshold


def periodic(
    seed_depths: Stages = LEAST,
    max_depths: Stages = MOST,
    interval: int = 3,
    window: int = 100,
    threshold: Threshold = 0.05,
    metric: str = "max",
    mode: str = "group",
    sub: Stages | None = None,
    rate: float = 0.4,
    max_growth_epochs: int = 4000,
    seed: int = 0,
    *,
    stop: Callable[[PolicySettings], Rule] = gain_rule,
) -> Policy:
    """Makes periodic growth (p-AutoGrow): a block every `interval` epochs, converged or not.

    No stage is frozen before the window is full, so no run stops below a floor of depths, 13-13-12
    from 1-1-1 with the defaults.

    Args:
      seed_depths: blocks in each stage at the start, one entry a stage, each at least 1.
      max_depths: the most blocks each stage may have, as many entries as `seed_depths`.
      interval: K, epochs between two growths, at least 1.
      window: J, epochs over which the gain is measured, at least 1 (ImageNet: 30).
      threshold: tau, accuracy gain in percentage points, at least 0; or a function of the accuracy,
        such as `lambda a: standard_error(a, 145)` on 145 images: less may be chance.
      metric: "max", the highest accuracy so far, of all depths, or "avg", the exponential average
        (decay 0.95) from 0, not corrected.
      mode: "group", one block in one stage by turns (the paper's); "all", one block in every
        stage; "sub", `sub[i]` blocks in stage i; "rate", `round(rate * total depth)` blocks, at
        least one, each in a stage drawn at random among those with room.
      sub: blocks for each stage, for mode "sub" only; a stage given 0 stays open.
      rate: share of the total depth added at each growth, above 0; mode "rate" only.
      max_growth_epochs: epochs after which growth ends, with the interval under way, at least 1.
      seed: the draws of mode "rate" depend on `seed` and the epoch alone.
      stop: makes the rule that says when the curve has stalled, of these settings.

    Raises:
      UserError: for a value outside of what is said above.
      ValueError: by the policy's `update`, on an accuracy that is not finite.

    Examples:
      >>> policy = periodic(interval=1)
      >>> policy.update(policy.init(), 61.5)[1]
      Decision(action='grow', depths=(2, 1, 1), stages=(0,), best=None, notes={})
    """
    return Mechanism(PolicySettings.make("periodic", locals()), stop).policy()


@named
def convergent(
    seed_depths: Stages = LEAST,
    max_depths: Stages = MOST,
    interval: int = 100,
    threshold: Threshold = 0.05,
    metric: str = "max",
    mode: str = "group",
    sub: Stages | None = None,
    rate: float = 0.4,
    max_growth_epochs: int = 4000,
    seed: int = 0,
) -> Policy:
    """Makes convergent growth (c-AutoGrow): a block only once the net has stopped improving.

    Nothing grows before `2 * interval` epochs, unless the metric itself is below `threshold`.

    Args:
      interval: K, epochs between two looks and also the window of the gain, at least 1 (100 in
        the authors' code, 200 in the paper).
      all others: as for `periodic`, without `window`.
    """
    checked = PolicySettings.make("convergent", locals(), window=interval, patient=True)
    return Mechanism(checked, gain_rule).policy()


@named
def slope(
    seed_depths: Stages = LEAST,
    max_depths: Stages = MOST,
    interval: int = 3,
    window: int = 100,
    threshold: Threshold = 0.05,
    mode: str = "group",
    sub: Stages | None = None,
    rate: float = 0.4,
    max_growth_epochs: int = 4000,
    seed: int = 0,
) -> Policy:
    """Makes growth like `periodic` that stops by the slope of a line through the whole window.

    The run has stalled if `slope * window < threshold`, of the least-squares line through the last
    `window + 1` accuracies; before there are as many, never.

    Args:
      all others: as for `periodic`, without `metric`.
    """
    checked = PolicySettings.make("slope", locals(), metric="max")

    def rule(settings: PolicySettings) -> Rule:
        def stalled(history: list[Any]) -> bool:
            return len(history) > settings.window and fitted_gain(history) < settings.threshold

        return Rule(lambda last, accuracy, *_: accuracy, stalled)

    return Mechanism(checked, rule).policy()


@named
def gap(
    seed_depths: Stages = LEAST,
    max_depths: Stages = MOST,
    *,
    max_gap: float = 5.0,
    interval: int = 3,
    window: int = 100,
    threshold: Threshold = 0.05,
    metric: str = "max",
    mode: str = "group",
    sub: Stages | None = None,
    rate: float = 0.4,
    max_growth_epochs: int = 4000,
    seed: int = 0,
) -> Policy:
    """Makes growth like `periodic` that goes on in a stalled net as long as it underfits.

    A stage is frozen where validation has stalled and the gap, train minus validation accuracy, its
    mean over the window, is above `max_gap` or train has stalled too; docs/policies.md has a table.

    Args:
      all others: as for `periodic`; `metric` is of both accuracies.
      max_gap: percentage points that train may be ahead of validation, at least 0.

    The policy's `update` raises UserError without `measurements={"train_accuracy": percent}`.
    """
    checked = PolicySettings.make("gap", locals())
    most = check_number("max_gap", max_gap)

    def rule(settings: PolicySettings) -> Rule:
        def measure(last: Any, accuracy: float, depths: Depths, given: Measurements) -> list[float]:
            train = check_accuracy(given["train_accuracy"], "train")
            last_validation, last_train, _ = last or (None, None, None)
            validation = settings.next_metric(last_validation, accuracy)
            return [validation, settings.next_metric(last_train, train), train - accuracy]

        def note(history: list[Any]) -> dict[str, float]:
            return {"gap": fmean(gap for *_, gap in history[-settings.window :])}

        def stalled(history: list[Any]) -> bool:
            validation, train, _ = zip(*history, strict=True)
            if settings.gain(validation) >= settings.threshold:
                return False
            return note(history)["gap"] > most or settings.gain(train) < settings.threshold

        return Rule(measure, stalled, note)

    return Mechanism(checked, rule).policy()


@named
def efficiency(
    cost: Callable[[Depths], float],
    seed_depths: Stages = LEAST,
    max_depths: Stages = MOST,
    *,
    price: float = 0.5,
    interval: int = 3,
    window: int = 100,
    threshold: Threshold = 0.05,
    metric: str = "max",
    mode: str = "group",
    sub: Stages | None = None,
    rate: float = 0.4,
    max_growth_epochs: int = 4000,
    seed: int = 0,
) -> Policy:
    """Makes growth like `periodic` that stops when accuracy gets too dear.

    The run has stalled if `gain < max(threshold, price * doublings)`, where `doublings` is log2 of
    what the cost grew by over the window; before that is full, since the seed net.

    Args:
      cost: depths -> what a network of these depths costs, above 0, such as the multiply-adds of
        `autogrow_jax.models.estimate_cost`. Pure; called once an epoch.
      all others: as for `periodic`.
      price: least gain for a doubling of the cost in percentage points, at least 0.

    The policy's `update` raises UserError on a cost that is not a finite number above 0.
    """
    checked = PolicySettings.make("efficiency", locals())
    least = check_number("price", price)

    def rule(settings: PolicySettings) -> Rule:
        def measure(last: Any, accuracy: float, depths: Depths, given: Measurements) -> list[float]:
            spent = float(cost(depths))
            if not (math.isfinite(spent) and spent > 0.0):
                raise UserError(
                    f"the cost of depths {depths} is {spent}; growth policy 'efficiency' needs a"
                    " finite number above 0"
                )
            return [settings.next_metric(last and last[0], accuracy), spent]

        def stalled(history: list[Any]) -> bool:
            metric, costs = zip(*history, strict=True)
            # All of the history that is kept: `window` epochs, or what there is of them.
            doublings = math.log2(costs[-1] / costs[0])
            return settings.gain(metric) < max(settings.threshold, least * doublings)

        return Rule(measure, stalled)

    return Mechanism(checked, rule).policy()
