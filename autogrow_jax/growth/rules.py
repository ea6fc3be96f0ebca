"""Stop rules: whether a run has stalled, from what it has measured so far.

A policy of the periodic kind is the mechanism in `autogrow_jax.growth.policy` with one of these.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from autogrow_jax.growth.policy_settings import PolicySettings

_AVERAGE_DECAY = 0.95

History = list[Any]


class Rule(NamedTuple):
    """When a run has stalled. Both functions are pure.

    Attributes:
        push: `push(history, accuracy, depths, measurements) -> history`, after each epoch: the
            validation accuracy in percent, the depths it was measured with, further measurements
            by name. Takes no more along than the rule looks back on; a list that JSON can hold.
        stalled: `stalled(history) -> bool`, of what `push` gave last.
    """

    push: Callable[[History, float, tuple[int, ...], Mapping[str, float]], History]
    stalled: Callable[[History], bool]


def gain_rule(settings: PolicySettings) -> Rule:
    """The paper's: the metric gained less than `threshold` points over `window` epochs."""

    def push(
        history: History,
        accuracy: float,
        depths: tuple[int, ...],
        measurements: Mapping[str, float],
    ) -> History:
        del depths, measurements
        last = history[-1] if history else None
        return keep(history, push_metric(last, accuracy, settings.metric), settings.window)

    def stalled(history: History) -> bool:
        return gain(history, settings.window) < settings.threshold

    return Rule(push, stalled)


def push_metric(last: float | None, accuracy: float, metric: str) -> float:
    """The metric after one more epoch.

    Args:
        last: the metric before, None at first.
        accuracy: of the epoch, in percent.
        metric: "max", the highest so far, or "avg", the exponential average from 0.

    Raises:
        ValueError: if the accuracy is not finite.
    """
    accuracy = check_accuracy(accuracy)
    if metric == "avg":
        return _AVERAGE_DECAY * (last or 0.0) + (1.0 - _AVERAGE_DECAY) * accuracy
    return accuracy if last is None else max(last, accuracy)


def check_accuracy(accuracy: float, kind: str = "validation") -> float:
    """The accuracy as a float; ValueError if it is not finite."""
    accuracy = float(accuracy)
    if not math.isfinite(accuracy):
        raise ValueError(
            f"the {kind} accuracy is {accuracy}; growth needs a finite number of percent. "
            "Training has most likely diverged: look at the loss, lower the learning rate."
        )
    return accuracy


def keep(history: History, value: Any, window: int) -> History:
    """`history` and `value`, of which the last `window + 1` entries."""
    return [*history[-window:], value]


def gain(metric: Sequence[float], window: int) -> float:
    """What the metric gained over `window` epochs; all of it before the window is full.

    So a rule that compares the gain cannot fire on a curve above its threshold before then.
    """
    return metric[-1] - metric[-1 - window] if len(metric) > window else metric[-1]
