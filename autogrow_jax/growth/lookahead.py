"""Lookahead growth: try the next block in each open stage for an epoch, keep the best stage.

It is otherwise periodic growth, so that comparing the two shows what the choice is worth.

1.  The *kept net* is trained for `interval` epochs. Its accuracies, and only they, enter the
    metric and fill the window of the stop rule, which is that of `periodic`.
2.  Then, in this order: *freeze* the stage that grew last, if stalled; *leave* if no stage is open;
    *look ahead*.
3.  Looking ahead is a round of trials, one epoch for each open stage, each from the kept net. The
    trial with the highest validation accuracy becomes the kept net, and its epoch the first of the
    next interval. Of equals the stage next by turns is kept, so that a curve that cannot tell the
    stages apart gives periodic growth. A single open stage grows untried.
4.  `max_growth_epochs` counts every epoch trained, trials included. What does not fit in is not
    begun, so every block of the found net was trained in the growth phase.

| epoch over                     | open stages | epochs left for the phase   | then                |
|--------------------------------|-------------|-----------------------------|---------------------|
| within an interval             | any         | some                        | train on            |
| last of an interval            | none        | any                         | fine-tune           |
| last of an interval            | one         | at least 1                  | grow it             |
| last of an interval            | n > 1       | at least n                  | first trial         |
| last of an interval            | n           | some, but fewer than needed | train on            |
| a trial, not the round's last  | n > 1       | enough, as checked before   | next trial          |
| the round's last trial         | n > 1       | some                        | keep the best, grow |
| the round's last trial         | n > 1       | none                        | keep it, fine-tune  |
| any of the kept net            | any         | none                        | fine-tune           |

The cost: with M open stages, a block costs M - 1 epochs more than in periodic growth.
"""

from collections.abc import Sequence

from autogrow_jax.errors import UserError
from autogrow_jax.growth.mechanism import check_accuracy, gain_rule
from autogrow_jax.growth.placement import PolicySettings, find_open_stages, turn
from autogrow_jax.growth.policy import (
    Action,
    Allowed,
    Decision,
    Measurements,
    Policy,
    State,
    deepen,
    read_depths,
)


def lookahead(
    seed_depths: Sequence[int] = (1, 1, 1),
    max_depths: Sequence[int] = (200, 200, 200),
    interval: int = 3,
    window: int = 100,
    threshold: float = 0.05,
    metric: str = "max",
    max_growth_epochs: int = 4000,
) -> Policy:
    """Makes growth of the stage whose next block does best in an epoch of trial; not the paper's.

    Args:
      interval: K, epochs that the kept net is trained between two growths, the epoch of its trial
        included, at least 2.
      max_growth_epochs: epochs, trials included, that the growth phase never passes, at least 1.
      seed_depths, max_depths, window, threshold, metric: as for `periodic`, of the kept net.

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
    settings = PolicySettings(
        "lookahead", seed_depths, max_depths, interval, window, threshold, metric,
        max_growth_epochs=max_growth_epochs,
    )  # fmt: skip
    if settings.interval < 2:
        raise UserError(
            f"interval={interval} leaves a tried net no epoch after its trial, which is the first "
            "of the interval; lookahead needs an interval of at least 2."
        )
    return _build(settings)


def _build(settings: PolicySettings) -> Policy:
    seed_depths = tuple(settings.seed_depths)
    rule = gain_rule(settings)

    def init() -> State:
        return {
            "epochs": 0,  # all, trials included
            "depths": list(seed_depths),  # of the kept net, as `frozen` and all below
            "frozen": [False] * len(seed_depths),
            "grown": None,  # the stage grown last
            "since": 0,  # epochs since growth
            "metric": [],  # the rule's history, of the last `window + 1` epochs
            "tried": [],  # [stage, accuracy] of each trial of the open round
            "untried": [],  # stages of the open round, the one on trial first
            "finished": False,
        }

    def update(
        state: State, accuracy: float, *, measurements: Measurements | None = None
    ) -> tuple[State, Decision]:
        depths = read_depths(state, seed_depths)
        if state["finished"]:
            return state, Decision("finetune", depths)
        accuracy = check_accuracy(accuracy)
        state = {**state, "epochs": state["epochs"] + 1}
        if state["untried"]:
            stage, *untried = state["untried"]
            state |= {"tried": [*state["tried"], [stage, accuracy]], "untried": untried}
            return next_trial(state) if untried else keep_best(state)
        state = {**measure(state, accuracy), "since": state["since"] + 1}
        if state["since"] % settings.interval == 0:
            return end_interval(state)
        return finish_or(state, "train")

    def measure(state: State, accuracy: float) -> State:
        depths = tuple(state["depths"])
        metric = rule.push(state["metric"], accuracy, depths, {}, settings.window)
        return {**state, "metric": metric}

    def end_interval(state: State) -> tuple[State, Decision]:
        if rule.stalled(state["metric"]):
            frozen = [f or i == state["grown"] for i, f in enumerate(state["frozen"])]
            state = {**state, "frozen": frozen}
        open_stages = find_open_stages(state["depths"], state["frozen"], settings)
        stages = turn(open_stages, state["grown"])
        if not stages:
            return _finish(state)
        if state["epochs"] + len(stages) > settings.max_growth_epochs:
            return finish_or(state, "train")
        if len(stages) > 1:
            return next_trial({**state, "untried": stages})
        state = _grow(state, stages[0], since=0)
        return state, Decision("grow", tuple(state["depths"]), (stages[0],))

    def next_trial(state: State) -> tuple[State, Decision]:
        stage = state["untried"][0]
        best = _find_best(state["tried"])[0] if state["tried"] else None
        return state, Decision("trial", deepen(state["depths"], stage), (stage,), best)

    def keep_best(state: State) -> tuple[State, Decision]:
        stage, accuracy = _find_best(state["tried"])
        state = _grow({**state, "tried": []}, stage, since=1)
        return finish_or(measure(state, accuracy), "grow", (stage,))

    def finish_or(
        state: State, action: Action, stages: tuple[int, ...] = ()
    ) -> tuple[State, Decision]:
        if state["epochs"] >= settings.max_growth_epochs:
            return _finish(state, stages)
        return state, Decision(action, tuple(state["depths"]), stages)

    def restrict(allowed: Allowed) -> Policy:
        return _build(settings.restrict(allowed))

    return Policy(init, update, seed_depths, settings.name, restrict)


def _finish(state: State, stages: tuple[int, ...] = ()) -> tuple[State, Decision]:
    return {**state, "finished": True}, Decision("finetune", tuple(state["depths"]), stages)


def _find_best(tried: Sequence[Sequence[float]]) -> tuple[int, float]:
    """Stage and accuracy of the best trial, the first of equals."""
    stage, accuracy = max(tried, key=lambda trial: trial[1])
    return int(stage), accuracy


def _grow(state: State, stage: int, since: int) -> State:
    depths = list(deepen(state["depths"], stage))
    return {**state, "depths": depths, "grown": stage, "since": since}
