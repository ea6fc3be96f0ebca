"""The growth policies by name: the paper's two, and four that stop or choose by other rules."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from autogrow_jax.errors import Registry, UserError
from autogrow_jax.growth.limits import CostFn
from autogrow_jax.growth.lookahead import lookahead
from autogrow_jax.growth.mechanism import (
    StopRule,
    build_policy,
    efficiency_rule,
    gain_rule,
    gap_rule,
    slope_rule,
)
from autogrow_jax.growth.placement import PolicySettings, check_number, make_settings
from autogrow_jax.growth.policy import Policy


def periodic(
    seed_depths: Sequence[int] = (1, 1, 1),
    max_depths: Sequence[int] = (200, 200, 200),
    interval: int = 3,
    window: int = 100,
    threshold: float = 0.05,
    metric: str = "max",
    mode: str = "group",
    sub: Sequence[int] | None = None,
    rate: float = 0.4,
    max_growth_epochs: int = 4000,
    seed: int = 0,
    *,
    stop: StopRule = gain_rule,
) -> Policy:
    """Makes periodic growth (p-AutoGrow): a block every `interval` epochs, converged or not.

    A stage is frozen when the metric gained less than `threshold` over a full window. So no run
    stops below a floor of depths; it is 13-13-12 from 1-1-1 with the defaults.

    Args:
      seed_depths: blocks in each stage at the start, one entry a stage, each at least 1.
      max_depths: the most blocks each stage may have, as many entries as `seed_depths`.
      interval: K, epochs between two growths, at least 1.
      window: J, epochs over which the gain is measured, at least 1 (ImageNet: 30).
      threshold: tau, accuracy gain in percentage points, at least 0.
      metric: "max", the running maximum, or "avg", the exponential average (decay 0.95).
      mode: "group", one block in one stage by turns (the paper's); "all", one block in every
        stage; "sub", `sub[i]` blocks in stage i; "rate", `round(rate * total depth)` blocks, at
        least one, each in a stage drawn at random among those with room.
      sub: blocks for each stage, for mode "sub" only. A stage given 0 stays open all the same.
      rate: share of the total depth added at each growth, above 0; mode "rate" only.
      max_growth_epochs: epochs after which the growth phase ends in any case, with the interval
        that is under way, at least 1.
      seed: the draws of mode "rate" depend on `seed` and the epoch alone.
      stop: makes the rule that says when the curve has stalled, of these settings.

    Returns:
      The policy. Its `update` raises ValueError on an accuracy that is not finite.

    Raises:
      UserError: for a value outside of what is said above.

    Example:
      >>> policy = periodic(interval=1)
      >>> state, decision = policy.update(policy.init(), 61.5)
      >>> decision.action, decision.depths, decision.stages
      ('grow', (2, 1, 1), (0,))
    """
    settings = PolicySettings(
        "periodic", seed_depths, max_depths, interval, window, threshold, metric, mode, sub, rate,
        max_growth_epochs, seed,
    )  # fmt: skip
    return build_policy(settings, stop)


def convergent(
    seed_depths: Sequence[int] = (1, 1, 1),
    max_depths: Sequence[int] = (200, 200, 200),
    interval: int = 100,
    threshold: float = 0.05,
    metric: str = "max",
    mode: str = "group",
    **settings: Any,
) -> Policy:
    """Makes convergent growth (c-AutoGrow): a block only once the net has stopped improving.

    At the start of an interval the net grows if the metric gained less than `threshold` over the
    last one. At the end of an interval that began with growth the same test freezes the stage that
    grew. Nothing grows before `2 * interval` epochs, unless the metric itself is below `threshold`.

    Args:
      interval: K, epochs between two looks and also the window of the gain, at least 1 (100 in
        the authors' code, 200 in the paper).
      seed_depths, max_depths, threshold, metric, mode: as for `periodic`.
      **settings: sub, rate, max_growth_epochs, seed, as for `periodic`.
    """
    settings |= dict(seed_depths=seed_depths, max_depths=max_depths, interval=interval)
    settings |= dict(threshold=threshold, metric=metric, mode=mode)
    checked = make_settings("convergent", settings, without=("window",))
    patient = dataclasses.replace(checked, window=checked.interval, patient=True)
    return build_policy(patient, gain_rule)


def slope(
    seed_depths: Sequence[int] = (1, 1, 1),
    max_depths: Sequence[int] = (200, 200, 200),
    **settings: Any,
) -> Policy:
    """Makes growth like `periodic` that stops by the slope of a line through the whole window.

    The paper's gain is the difference of two running maxima, which one lucky epoch holds at zero.
    Here the least-squares line through the last `window + 1` accuracies decides:

        slope * window < threshold: the run has stalled

    On a straight curve that rises the two agree. A lucky epoch of p points moves the fitted gain by
    at most about `6 p / window`, noise of standard deviation s by `s * sqrt(12 / window)`, so a
    shorter window wants a higher threshold. Nothing stalls before `window + 1` epochs.

    Args:
      seed_depths, max_depths, **settings: as for `periodic`, without `metric`: the line is fitted
        to the accuracies themselves.

    Example:
      >>> from autogrow_jax.growth import replay
      >>> rising = [50 + epoch / 10 for epoch in range(60)]
      >>> rising[5] = 56.0  # a lucky epoch
      >>> [replay(make(window=30), rising).finished for make in (periodic, slope)]
      [True, False]
    """
    given = dict(seed_depths=seed_depths, max_depths=max_depths, **settings)
    return build_policy(make_settings("slope", given, without=("metric",)), slope_rule)


def gap(
    seed_depths: Sequence[int] = (1, 1, 1),
    max_depths: Sequence[int] = (200, 200, 200),
    max_gap: float = 5.0,
    **settings: Any,
) -> Policy:
    """Makes growth like `periodic` that goes on in a stalled net as long as it underfits.

    The gap of an epoch is train minus validation accuracy in percentage points, and what counts is
    its mean over the last `window` epochs. Both accuracies have their gain over the window, as
    validation has in `periodic`. At the end of each interval:

    | validation gains | gap           | train gains | the stage grown last                       |
    |------------------|---------------|-------------|--------------------------------------------|
    | yes              |               |             | stays open                                 |
    | no               | above max_gap |             | is frozen: more depth would only overfit   |
    | no               | within        | yes         | stays open: the net underfits and learns   |
    | no               | within        | no          | is frozen: depth no longer helps it learn  |

    "Gains" means by `threshold` or more. So `gap` freezes only when `periodic` would, and spares a
    stage in the third row alone. Train accuracy is what the training steps saw: with augmentation,
    and averaged over an epoch in which the weights improved.

    Args:
      max_gap: percentage points that train may be ahead of validation, at least 0.
      seed_depths, max_depths, **settings: as for `periodic`. `metric` is of both accuracies, for
        the gains; the gap is of the accuracies.

    Returns:
      The policy. Its `update` needs `measurements={"train_accuracy": percent}` and raises
      UserError without.

    Example:
      >>> policy = gap(interval=1)
      >>> _, decision = policy.update(policy.init(), 61.5, measurements={"train_accuracy": 60.0})
      >>> decision.depths
      (2, 1, 1)
    """
    given = dict(seed_depths=seed_depths, max_depths=max_depths, **settings)
    return build_policy(make_settings("gap", given), gap_rule(check_number("max_gap", max_gap)))


def efficiency(
    cost: Callable[[tuple[int, ...]], float],
    seed_depths: Sequence[int] = (1, 1, 1),
    max_depths: Sequence[int] = (200, 200, 200),
    price: float = 0.5,
    **settings: Any,
) -> Policy:
    """Makes growth like `periodic` that stops when accuracy gets too dear.

    The gain over the window is weighed against the increase in cost over the same window:

        doublings = log2(cost now / cost `window` epochs ago)
        gain < max(threshold, price * doublings): the run has stalled

    With a price of 0 that is the paper's rule. Before the window is full the gain counts from zero,
    as in `periodic`, and the cost from the seed net's.

    Args:
      cost: depths -> what a network of these depths costs, above 0, such as the multiply-adds of
        `autogrow_jax.models.estimate_cost`. Pure; called once an epoch.
      price: least gain for a doubling of the cost in percentage points, at least 0.
      seed_depths, max_depths, **settings: as for `periodic`; `threshold` is the least gain
        whatever it cost.

    Returns:
      The policy. Its `update` raises UserError on a cost that is not a finite number above 0.

    Example:
      >>> from autogrow_jax.growth import replay
      >>> curve = [60, 70, 75, 78, 79, 79.5, 79.7, 79.8, 79.9]
      >>> settings = dict(seed_depths=(1,), max_depths=(99,), interval=1, window=1)
      >>> [replay(efficiency(sum, price=p, **settings), curve).depths for p in (0, 2)]
      [(10,), (6,)]
    """
    given = dict(seed_depths=seed_depths, max_depths=max_depths, **settings)
    rule = efficiency_rule(cost, check_number("price", price))
    return build_policy(make_settings("efficiency", given), rule)


class PolicyArguments(NamedTuple):
    """What a policy is made from.

    Attributes:
      growth: the config's `growth` keys as attributes, checked: `growth.interval`,
        `growth.threshold` and so on, plain Python values.
      seed_depths: blocks in each stage at the start.
      seed: of all randomness in the run.
      cost: depths -> the cost of a network of these depths. Call it in `init` or `update`, not
        while the policy is made: configs are checked before the images are known, and then it
        raises UserError.
    """

    growth: Any
    seed_depths: tuple[int, ...]
    seed: int
    cost: CostFn

    def shared(self, *without: str) -> dict[str, Any]:
        """Returns the keyword arguments that our policies share, but for those `without`."""
        growth = self.growth
        shared = {
            "seed_depths": self.seed_depths,
            "max_depths": growth.max_depths,
            "interval": growth.interval,
            "window": growth.window,
            "threshold": growth.threshold,
            "metric": growth.metric,
            "mode": growth.mode,
            "sub": growth.sub or None,
            "rate": growth.rate,
            "max_growth_epochs": growth.max_epochs,
            "seed": self.seed,
        }
        return {name: value for name, value in shared.items() if name not in without}


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


def register_policy(name: str, make: MakePolicy) -> None:
    """Adds a policy of one's own, after which `growth.policy` takes its name.

    Args:
      name: a name not yet taken.
      make: `make(arguments) -> Policy`, called with `PolicyArguments` to check a config, and again
        to run it or go on with it; the same arguments have to make the same policy.

    Raises:
      UserError: where the name is taken.

    Example:
      >>> def make(arguments):
      ...     return periodic(arguments.seed_depths, arguments.growth.max_depths, interval=1)
      >>> register_policy("every_epoch", make)
    """
    POLICIES.register(name, make)
