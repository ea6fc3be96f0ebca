"""Growth that stops when accuracy gets too dear: a price in points for each doubling of cost."""

import math
from collections.abc import Callable, Mapping, Sequence

from autogrow_jax.errors import UserError
from autogrow_jax.growth.policy import Policy, build_policy
from autogrow_jax.growth.policy_settings import PolicySettings, check_number
from autogrow_jax.growth.rules import History, Rule, gain, keep, push_metric


def efficiency(
    cost: Callable[[tuple[int, ...]], float],
    seed_depths: Sequence[int] = (1, 1, 1),
    max_depths: Sequence[int] = (200, 200, 200),
    interval: int = 3,
    window: int = 100,
    threshold: float = 0.05,
    price: float = 0.5,
    metric: str = "max",
    mode: str = "group",
    sub: Sequence[int] | None = None,
    rate: float = 0.4,
    max_growth_epochs: int = 4000,
    seed: int = 0,
) -> Policy:
    """Grows like `periodic`; stops when the accuracy gained is not worth the cost added.

    The paper chooses a depth without regard to what it costs. Here the gain over the window is
    weighed against the relative increase in cost over the same window:

        doublings = log2(cost now / cost `window` epochs ago)
        gain < max(threshold, price * doublings): the run has stalled

    With a price of 0 that is the paper's rule. Before the window is full the gain counts from zero,
    as in `periodic`, and the cost from the seed net's. A block is a smaller part of a deeper net,
    so it has to gain less there.

    Args:
        cost: depths -> what a network of these depths costs, above 0, such as the multiply-adds of
            `autogrow_jax.models.estimate_cost`. Pure; called once an epoch.
        window: epochs over which gain and cost are compared, at least 1. With the default no run
            stops below the floor of `periodic`; cheap nets want a shorter window.
        threshold: least gain over the window in percentage points, whatever it cost, at least 0.
        price: least gain for a doubling of the cost in percentage points, at least 0.
        seed_depths, max_depths, interval, metric, mode, sub, rate, max_growth_epochs, seed: as for
            `periodic`.

    Returns:
        The policy. Its `update` raises ValueError on an accuracy that is not finite, UserError on
        a cost that is not a finite number above 0.

    Raises:
        UserError: for a value outside of what is said above.

    Example:
        >>> from autogrow_jax.growth.replay import replay
        >>> curve = [60, 70, 75, 78, 79, 79.5, 79.7, 79.8, 79.9]
        >>> settings = dict(seed_depths=(1,), max_depths=(99,), interval=1, window=1)
        >>> [replay(efficiency(sum, price=p, **settings), curve).depths for p in (0, 2)]
        [(10,), (6,)]
    """
    settings = PolicySettings(
        "efficiency",
        seed_depths,
        max_depths,
        interval,
        window,
        threshold,
        metric,
        mode,
        sub,
        rate,
        max_growth_epochs,
        seed,
    )
    return build_policy(settings, _make_rule(settings, cost, check_number("price", price)))


def _make_rule(
    settings: PolicySettings, cost: Callable[[tuple[int, ...]], float], price: float
) -> Rule:
    window, threshold = settings.window, settings.threshold

    def push(
        history: History,
        accuracy: float,
        depths: tuple[int, ...],
        measurements: Mapping[str, float],
    ) -> History:
        del measurements
        last = history[-1][0] if history else None
        spent = float(cost(depths))
        if not (math.isfinite(spent) and spent > 0.0):
            raise UserError(
                f"the cost of depths {depths} is {spent}; growth policy 'efficiency' needs a finite"
                " number above 0"
            )
        return keep(history, [push_metric(last, accuracy, settings.metric), spent], window)

    def stalled(history: History) -> bool:
        metric, costs = zip(*history, strict=True)
        # All of the history that is kept: `window` epochs, or what there is of them.
        doublings = math.log2(costs[-1] / costs[0])
        return gain(metric, window) < max(threshold, price * doublings)

    return Rule(push, stalled)
