"""Growth that stops by the slope of the accuracy curve rather than by its highest point."""

import math
from collections.abc import Mapping, Sequence

from autogrow_jax.growth.policy import Policy, build_policy
from autogrow_jax.growth.policy_settings import PolicySettings
from autogrow_jax.growth.rules import History, Rule, check_accuracy, keep


def slope(
    seed_depths: Sequence[int] = (1, 1, 1),
    max_depths: Sequence[int] = (200, 200, 200),
    interval: int = 3,
    window: int = 100,
    threshold: float = 0.05,
    mode: str = "group",
    sub: Sequence[int] | None = None,
    rate: float = 0.4,
    max_growth_epochs: int = 4000,
    seed: int = 0,
) -> Policy:
    """Grows like `periodic`; stops by the slope of a straight line through the whole window.

    The paper's gain is the difference of two running maxima: one lucky epoch holds it at zero for
    as long as the curve stays below, one at the end hides that nothing improves. Here the line
    that fits best, by least squares, the accuracies of the last `window + 1` epochs decides:

        slope * window < threshold: the run has stalled

    with the slope in points an epoch, so `slope * window` is the gain over the window and
    `threshold` means what it means to `periodic`; on a straight curve that rises the two agree.
    The default 0.05 over 100 epochs is a slope of 0.0005 points an epoch. A lucky epoch of p points
    moves the fitted gain by at most about `6 p / window`. Noise of standard deviation s moves it by
    `s * sqrt(12 / window)`, so a shorter window wants a higher threshold.

    Nothing stalls before `window + 1` epochs. A fall after each growth is no trend if the window
    spans many intervals.

    Args:
        window: epochs that the line spans, at least 1.
        threshold: least fitted gain over the window in percentage points, at least 0.
        seed_depths, max_depths, interval, mode, sub, rate, max_growth_epochs, seed: as for
            `periodic`. There is no `metric`: the line is fitted to the accuracies themselves.

    Returns:
        The policy. Its `update` raises ValueError on an accuracy that is not finite.

    Raises:
        UserError: for a value outside of what is said above.

    Example:
        >>> from autogrow_jax.growth.policy import periodic
        >>> from autogrow_jax.growth.replay import replay
        >>> rising = [50 + epoch / 10 for epoch in range(60)]
        >>> rising[5] = 56.0  # a lucky epoch
        >>> [replay(make(window=30), rising).finished for make in (periodic, slope)]
        [True, False]
    """
    settings = PolicySettings(
        "slope",
        seed_depths,
        max_depths,
        interval,
        window,
        threshold,
        "max",  # not used: the rule below keeps the accuracies as they are
        mode,
        sub,
        rate,
        max_growth_epochs,
        seed,
    )
    return build_policy(settings, _make_rule(settings.window, settings.threshold))


def _make_rule(window: int, threshold: float) -> Rule:
    def push(
        history: History,
        accuracy: float,
        depths: tuple[int, ...],
        measurements: Mapping[str, float],
    ) -> History:
        del depths, measurements
        return keep(history, check_accuracy(accuracy), window)

    def stalled(history: History) -> bool:
        return len(history) > window and fitted_gain(history) < threshold

    return Rule(push, stalled)


def fitted_gain(accuracies: Sequence[float]) -> float:
    """Rise, from first to last, of the least-squares line through accuracies one epoch apart.

    Args:
        accuracies: at least two, in percent.

    Returns:
        Slope times the number of epochs between first and last, in percentage points.
    """
    epochs = len(accuracies) - 1
    middle = epochs / 2
    # fsum: a level curve must have a slope of exactly zero, which a threshold of 0 accepts.
    rise = math.fsum((epoch - middle) * a for epoch, a in enumerate(accuracies))
    return epochs * rise / math.fsum((epoch - middle) ** 2 for epoch in range(epochs + 1))
