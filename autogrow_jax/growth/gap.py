"""Growth on the gap between train and validation accuracy: deeper as long as the net underfits."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from autogrow_jax.growth.limits import find_measurement
from autogrow_jax.growth.policy import Policy, build_policy
from autogrow_jax.growth.policy_settings import PolicySettings, check_number
from autogrow_jax.growth.rules import History, Rule, check_accuracy, gain, keep, push_metric


def gap(
    seed_depths: Sequence[int] = (1, 1, 1),
    max_depths: Sequence[int] = (200, 200, 200),
    interval: int = 3,
    window: int = 100,
    threshold: float = 0.05,
    max_gap: float = 5.0,
    metric: str = "max",
    mode: str = "group",
    sub: Sequence[int] | None = None,
    rate: float = 0.4,
    max_growth_epochs: int = 4000,
    seed: int = 0,
) -> Policy:
    """Grows like `periodic`; whether a stalled net still underfits decides about its stages.

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
    stage in the third row alone; that makes a shorter window safe, as a pause of validation alone
    stops nothing. The fourth row ends the growth of plain nets that are too deep to train.

    Train accuracy is what the training steps saw: with augmentation, and averaged over an epoch in
    which the weights improved. Early in a run it may lie below validation accuracy.

    Args:
        window: epochs over which both gains and the gap are taken, at least 1.
        threshold: least gain of either accuracy over the window in percentage points, at least 0.
        max_gap: percentage points that train may be ahead of validation, at least 0.
        metric: "max" or "avg", of both accuracies, for the gains; the gap is of the accuracies.
        seed_depths, max_depths, interval, mode, sub, rate, max_growth_epochs, seed: as for
            `periodic`.

    Returns:
        The policy. Its `update` needs `measurements={"train_accuracy": percent}` and raises
        UserError without, ValueError where one of the accuracies is not finite.

    Raises:
        UserError: for a value outside of what is said above.

    Example:
        >>> policy = gap(interval=1)
        >>> _, decision = policy.update(policy.init(), 61.5, measurements={"train_accuracy": 60.0})
        >>> decision.depths
        (2, 1, 1)
    """
    settings = PolicySettings(
        "gap",
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
    return build_policy(settings, _make_rule(settings, check_number("max_gap", max_gap)))


def _make_rule(settings: PolicySettings, max_gap: float) -> Rule:
    window, threshold = settings.window, settings.threshold

    def push(
        history: History,
        accuracy: float,
        depths: tuple[int, ...],
        measurements: Mapping[str, float],
    ) -> History:
        del depths
        train = find_measurement(measurements, "train_accuracy", "growth policy 'gap'")
        train = check_accuracy(train, "train")
        last_validation, last_train, _ = history[-1] if history else (None, None, None)
        entry = [
            push_metric(last_validation, accuracy, settings.metric),
            push_metric(last_train, train, settings.metric),
            train - float(accuracy),
        ]
        return keep(history, entry, window)

    def stalled(history: History) -> bool:
        validation, train, gaps = zip(*history, strict=True)
        if gain(validation, window) >= threshold:
            return False
        return fmean(gaps[-window:]) > max_gap or gain(train, window) < threshold

    return Rule(push, stalled)
