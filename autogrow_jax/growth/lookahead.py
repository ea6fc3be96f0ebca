"""Lookahead growth: periodic, with a trial of each stage's next block; see docs/policies.md."""

from collections.abc import Sequence
from typing import Any, ClassVar

from autogrow_jax.errors import UserError
from autogrow_jax.growth.mechanism import Mechanism, conclude, gain_rule
from autogrow_jax.growth.placement import LEAST, MOST, PolicySettings, Stages, named, turn
from autogrow_jax.growth.policy import Decision, Measured, Policy, State, Threshold, deepen


@named
def lookahead(
    seed_depths: Stages = LEAST,
    max_depths: Stages = MOST,
    interval: int = 3,
    window: int = 100,
    threshold: Threshold = 0.05,
    metric: str = "max",
    max_growth_epochs: int = 4000,
) -> Policy:
    """Makes growth of the stage whose next block does best in an epoch of trial; not the paper's.

    Args:
      interval: K, epochs that the kept net is trained between two growths, the epoch of its trial
        included, at least 2.
      all others: as for `periodic`, of the kept net; `max_growth_epochs` is never passed.

    Raises:
      UserError: for a value outside of what is said above.
    """
    checked = PolicySettings.make("lookahead", locals())
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

    def decide(self, state: State, accuracy: float, given: Measured) -> Decision:
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
            if self.stop(self.settings.at(accuracy)).stalled(state["metric"]):
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
