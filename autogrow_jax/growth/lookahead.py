"""Lookahead growth: periodic growth that tries the next block in each open stage for an epoch.

1.  The *kept net* is trained for `interval` epochs. Its accuracies, and only they, enter the metric
    and fill the window of the stop rule, which is that of `periodic`. Then the stage that grew last
    is frozen, if stalled.
2.  A round of trials follows, an epoch for each open stage, each from the kept net. The one with
    the highest validation accuracy becomes the kept net, and its epoch the first of the next
    interval. Of equals the stage next by turns is kept, so that a curve that cannot tell the stages
    apart gives periodic growth.
3.  `max_growth_epochs` counts trials too. What does not fit in is not begun, so every block of the
    found net was trained in the growth phase.
    docs/policies.md has a table of what follows when.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

from autogrow_jax.errors import UserError
from autogrow_jax.growth.mechanism import Mechanism, conclude, gain_rule
from autogrow_jax.growth.placement import LEAST, MOST, PolicySettings, Stages, turn
from autogrow_jax.growth.policy import Decision, Measurements, Policy, State, deepen


def lookahead(
    seed_depths: Stages = LEAST, max_depths: Stages = MOST, interval: int = 3, **settings: Any
) -> Policy:
    """Makes growth of the stage whose next block does best in an epoch of trial; not the paper's.

    Args:
      interval: K, epochs that the kept net is trained between two growths, the epoch of its trial
        included, at least 2.
      seed_depths, max_depths, **settings: window, threshold, metric and max_growth_epochs as for
        `periodic`, of the kept net; `max_growth_epochs` is never passed.

    Raises:
      UserError: for a value outside of what is said above.

    Example:
      >>> policy = lookahead((1, 1), (9, 9), interval=2)
      >>> state = policy.init()
      >>> for accuracy in (50.0, 60.0, 61.0, 64.0):  # two epochs, two trials
      ...     state, decision = policy.update(state, accuracy)
      >>> decision
      Decision(action='grow', depths=(1, 2), stages=(1,), best=None)
    """
    settings["interval"] = interval
    fixed = dict(mode="group", sub=None, rate=0.4, seed=0)
    checked = PolicySettings.make("lookahead", seed_depths, max_depths, settings, **fixed)
    if checked.interval < 2:
        raise UserError(
            f"interval={interval} leaves a tried net no epoch after its trial, which is the first "
            "of the interval; lookahead needs an interval of at least 2."
        )
    return _Lookahead(checked, gain_rule).policy()


class _Lookahead(Mechanism):
    more: ClassVar[State] = {
        "since": 0,  # epochs of the kept net since it grew, that of its trial included
        "tried": [],  # [stage, accuracy] of each trial of the open round
        "untried": [],  # stages of the open round, the one on trial first
    }

    def decide(self, state: State, accuracy: float, given: Measurements) -> Decision:
        stages: list[int] = []
        if state["untried"]:
            stage, *state["untried"] = state["untried"]
            state["tried"] = [*state["tried"], [stage, accuracy]]
            if state["untried"]:
                return _try_next(state)
            stage, accuracy = _find_best(state["tried"])
            stages = [stage]
            state |= {"tried": [], "since": 0}
        self.measure(state, accuracy, given)
        state["since"] += 1
        left = self.settings.max_growth_epochs - state["epochs"]
        over = left <= 0
        if state["since"] % self.settings.interval == 0:
            if self.rule.stalled(state["metric"]):
                self.freeze(state)
            open_stages = turn(self.settings.find_open(state), state["grown"])
            over = over or not open_stages
            if 1 < len(open_stages) <= left:
                state["untried"] = open_stages
                return _try_next(state)
            if len(open_stages) == 1 <= left:
                stages, state["since"] = open_stages, 0
        return conclude(state, over, stages)


def _try_next(state: State) -> Decision:
    stage, tried = state["untried"][0], state["tried"]
    best = _find_best(tried)[0] if tried else None
    return Decision("trial", deepen(state["depths"], stage), (stage,), best)


def _find_best(tried: Sequence[Any]) -> Any:
    """Stage and accuracy of the best trial, the first of equals."""
    return max(tried, key=lambda trial: trial[1])
