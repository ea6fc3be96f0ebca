"""The growth policies by name: the paper's two, and four that stop or choose by other rules."""

import math
from collections.abc import Callable, Mapping
from statistics import fmean
from typing import Any, NamedTuple

from autogrow_jax.errors import Registry, UserError
from autogrow_jax.growth.limits import CostFn
from autogrow_jax.growth.lookahead import lookahead
from autogrow_jax.growth.mechanism import Mechanism, Rule, check_accuracy, fitted_gain, gain_rule
from autogrow_jax.growth.placement import LEAST, MOST, PolicySettings, Stages, check_number
from autogrow_jax.growth.policy import Depths, Measurements, Policy, look_up


def periodic(
    seed_depths: Stages = LEAST,
    max_depths: Stages = MOST,
    interval: int = 3,
    window: int = 100,
    threshold: float = 0.05,
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
      threshold: tau, accuracy gain in percentage points, at least 0.
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

    Example:
      >>> policy = periodic(interval=1)
      >>> policy.update(policy.init(), 61.5)[1]
      Decision(action='grow', depths=(2, 1, 1), stages=(0,), best=None)
    """
    settings = PolicySettings(
        "periodic", seed_depths, max_depths, interval, window, threshold, metric, mode, sub, rate,
        max_growth_epochs, seed,
    )  # fmt: skip
    return Mechanism(settings, stop).policy()


def convergent(
    seed_depths: Stages = LEAST, max_depths: Stages = MOST, interval: int = 100, **settings: Any
) -> Policy:
    """Makes convergent growth (c-AutoGrow): a block only once the net has stopped improving.

    Nothing grows before `2 * interval` epochs, unless the metric itself is below `threshold`.

    Args:
      interval: K, epochs between two looks and also the window of the gain, at least 1 (100 in
        the authors' code, 200 in the paper).
      seed_depths, max_depths, **settings: as for `periodic`, without `window`.
    """
    settings["interval"] = interval
    fixed = dict(window=interval, patient=True)
    checked = PolicySettings.make("convergent", seed_depths, max_depths, settings, **fixed)
    return Mechanism(checked, gain_rule).policy()


def slope(seed_depths: Stages = LEAST, max_depths: Stages = MOST, **settings: Any) -> Policy:
    """Makes growth like `periodic` that stops by the slope of a line through the whole window.

    The paper's gain is the difference of two running maxima, which one lucky epoch holds at zero.
    Here the run has stalled if `slope * window < threshold`, of the least-squares line through the
    last `window + 1` accuracies; before there are as many, never. A lucky epoch of p points moves
    the fitted gain by at most about `6 p / window`, noise of standard deviation s by
    `s * sqrt(12 / window)`, so a shorter window wants a higher threshold.

    Args:
      seed_depths, max_depths, **settings: as for `periodic`, without `metric`.
    """

    def rule(settings: PolicySettings) -> Rule:
        def stalled(history: list[Any]) -> bool:
            return len(history) > settings.window and fitted_gain(history) < settings.threshold

        return Rule(lambda last, accuracy, *_: accuracy, stalled)

    checked = PolicySettings.make("slope", seed_depths, max_depths, settings, metric="max")
    return Mechanism(checked, rule).policy()


def gap(
    seed_depths: Stages = LEAST, max_depths: Stages = MOST, *, max_gap: float = 5.0, **settings: Any
) -> Policy:
    """Makes growth like `periodic` that goes on in a stalled net as long as it underfits.

    The gap is train minus validation accuracy in percentage points, its mean over the last `window`
    epochs. At the end of each interval, "gains" meaning by `threshold` or more over the window:

    | validation gains | gap           | train gains | the stage grown last                       |
    |------------------|---------------|-------------|--------------------------------------------|
    | yes              |               |             | stays open                                 |
    | no               | above max_gap |             | is frozen: more depth would only overfit   |
    | no               | within        | yes         | stays open: the net underfits and learns   |
    | no               | within        | no          | is frozen: depth no longer helps it learn  |

    Args:
      seed_depths, max_depths, **settings: as for `periodic`; `metric` is of both accuracies.
      max_gap: percentage points that train may be ahead of validation, at least 0.

    The policy's `update` raises UserError without `measurements={"train_accuracy": percent}`.
    """
    most = check_number("max_gap", max_gap)

    def rule(settings: PolicySettings) -> Rule:
        def measure(last: Any, accuracy: float, depths: Depths, given: Measurements) -> list[float]:
            train = look_up(given, "train_accuracy", "growth policy 'gap'")
            train = check_accuracy(train, "train")
            last_validation, last_train, _ = last or (None, None, None)
            validation = settings.next_metric(last_validation, accuracy)
            return [validation, settings.next_metric(last_train, train), train - accuracy]

        def stalled(history: list[Any]) -> bool:
            validation, train, gaps = zip(*history, strict=True)
            if settings.gain(validation) >= settings.threshold:
                return False
            ahead = fmean(gaps[-settings.window :])
            return ahead > most or settings.gain(train) < settings.threshold

        return Rule(measure, stalled)

    checked = PolicySettings.make("gap", seed_depths, max_depths, settings)
    return Mechanism(checked, rule).policy()


def efficiency(
    cost: Callable[[Depths], float],
    seed_depths: Stages = LEAST,
    max_depths: Stages = MOST,
    *,
    price: float = 0.5,
    **settings: Any,
) -> Policy:
    """Makes growth like `periodic` that stops when accuracy gets too dear.

    The run has stalled if `gain < max(threshold, price * doublings)`, where `doublings` is log2 of
    what the cost grew by over the window; before that is full, since the seed net.

    Args:
      cost: depths -> what a network of these depths costs, above 0, such as the multiply-adds of
        `autogrow_jax.models.estimate_cost`. Pure; called once an epoch.
      seed_depths, max_depths, **settings: as for `periodic`.
      price: least gain for a doubling of the cost in percentage points, at least 0.

    The policy's `update` raises UserError on a cost that is not a finite number above 0.
    """
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

    checked = PolicySettings.make("efficiency", seed_depths, max_depths, settings)
    return Mechanism(checked, rule).policy()


class PolicyArguments(NamedTuple):
    """What a policy is made from.

    Attributes:
      growth: the config's `growth` keys as attributes, checked: `growth.interval` and so on.
      seed_depths: blocks in each stage at the start.
      seed: of all randomness in the run.
      cost: depths -> the cost of a network of these depths, for `init` and `update`; it raises
        UserError while a config is checked, as the images are not known then.
      settings: the policy's own, that it was registered with, checked: {name: value}.
    """

    growth: Any
    seed_depths: tuple[int, ...]
    seed: int
    cost: CostFn
    settings: Mapping[str, Any] = {}

    def shared(self, *without: str) -> dict[str, Any]:
        """Returns the keyword arguments that our policies share, but for those `without`."""
        names = ("max_depths", "interval", "window", "threshold", "metric", "mode", "rate")
        shared = {name: getattr(self.growth, name) for name in names} | {
            "seed_depths": self.seed_depths,
            "sub": self.growth.sub or None,
            "max_growth_epochs": self.growth.max_epochs,
            "seed": self.seed,
        }
        return {name: value for name, value in shared.items() if name not in without}


# What `register_policy` takes under a new name. It is called to check a config, and again to run it
# or go on with it: the same arguments have to make the same policy.
MakePolicy = Callable[[PolicyArguments], Policy]


def _make_lookahead(given: PolicyArguments) -> Policy:
    if given.growth.mode != "group":
        raise UserError(
            f"mode={given.growth.mode!r} adds blocks that policy 'lookahead' does not try; it needs"
            " mode='group'"
        )
    if given.growth.sub:
        raise UserError(f"sub={given.growth.sub} is used by mode='sub' only; leave it out")
    return lookahead(**given.shared("mode", "sub", "rate", "seed"))


POLICIES: Registry[MakePolicy] = Registry(
    "growth policy",
    {
        "periodic": lambda given: periodic(**given.shared()),
        "convergent": lambda given: convergent(**given.shared("window")),
        "slope": lambda given: slope(**given.shared("metric")),
        "gap": lambda given: gap(**given.shared(), max_gap=given.growth.max_gap),
        "efficiency": lambda given: efficiency(
            lambda depths: given.cost(depths).macs, **given.shared(), price=given.growth.price
        ),
        "lookahead": _make_lookahead,
    },
)


def register_policy(name: str, make: MakePolicy, settings: Mapping[str, Any] | None = None) -> None:
    """Adds a policy of one's own, which `config.growth.policy` then names.

    Args:
      make: makes the policy from what a config says; pure.
      settings: the policy's own: `{"patience": 3}` adds the key `growth.own.NAME.patience`, which
        is 3 where a config says nothing and takes whole numbers. A value is True or False, a
        number, a text, a tuple of these, or a `config.Key`, which can check more. `make` finds
        them in its argument's `settings`.

    Raises:
      UserError: there is a policy of this name.
    """
    POLICIES.register(name, make, settings)
