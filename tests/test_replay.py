"""Replay: the recorded runs of the original loops, curves too short, policies of one's own."""

import json
import pathlib
from typing import Any

import pytest

from autogrow_jax.errors import UserError
from autogrow_jax.growth import Decision, Policy, convergent, gap, periodic, replay
from autogrow_jax.optim import make_schedule

TRACES = pathlib.Path(__file__).parents[2] / "shared" / "fixtures" / "policy_traces.json"
CASES = json.loads(TRACES.read_text()) if TRACES.exists() else []
SETTINGS = (
    "seed_depths",
    "max_depths",
    "interval",
    "threshold",
    "metric",
    "mode",
    "sub",
    "max_growth_epochs",
)


@pytest.mark.skipif(not CASES, reason="the recorded cases are not part of the repository")
@pytest.mark.parametrize("case", CASES)
def test_recorded_case(case):
    settings: dict[str, Any] = {name: case[name] for name in SETTINGS}
    if case["policy"] == "periodic":
        policy = periodic(window=case["window"], **settings)
    else:
        policy = convergent(**settings)
    events = replay(
        policy, case["accuracies"], schedule=make_schedule("auto", 0.1, policy.schedule)
    )
    expected = case["expected"]
    assert events.growth == [(g["before_epoch"], tuple(g["depths"])) for g in expected["growth"]]
    assert events.depths == tuple(expected["final"])
    assert events.growth_epochs == expected["last_growth_phase_epoch"] + 1
    assert events.finetune_epochs == case["finetune_epochs"]
    assert events.total_epochs == expected["total_epochs"] == len(events.learning_rates)
    assert events.lr_runs == expected["lr_runs"]
    assert events.finished


def test_learning_rates_join_equal_neighbours_of_both_phases():
    policy = periodic(interval=1, max_growth_epochs=5)
    events = replay(policy, range(1, 99), 8, make_schedule("staircase", 0.1))
    assert events.lr_runs == [[0.1, 9], [0.01, 2], [0.001, 2]]


def test_replay_of_a_curve_that_ends_too_early():
    events = replay(periodic(interval=3), range(7), finetune_epochs=10)
    assert (events.growth_epochs, events.finetune_epochs, events.finished) == (7, 0, False)
    assert events.depths == (2, 2, 1)


def test_replay_with_a_fine_tune_of_given_length():
    events = replay(periodic(interval=1, max_growth_epochs=4), range(4), finetune_epochs=10)
    assert (events.growth_epochs, events.total_epochs, events.finished) == (4, 14, True)
    assert events.learning_rates == []
    with pytest.raises(UserError, match="finetune_epochs=-1"):
        replay(periodic(), [], finetune_epochs=-1)


def test_replay_of_a_policy_of_ones_own():
    def update(state, accuracy, *, measurements=None):
        if accuracy > 80:
            return state, Decision("finetune", (state["depth"],))
        return {"depth": state["depth"] + 1}, Decision("grow", (state["depth"] + 1,), (0,))

    policy = Policy(init=lambda: {"depth": 1}, update=update, seed_depths=(1,))
    events = replay(policy, [50, 70, 90, 95])
    assert events.growth == [(1, (2,)), (2, (3,))]
    assert (events.depths, events.growth_epochs, events.finetune_epochs) == ((3,), 3, 1)


def test_replay_hands_the_measurements_of_each_epoch_to_the_policy():
    """The lines of a metrics.jsonl serve: growth ends at the window once train is far ahead."""
    validation = [50.0, 60.0, 70.0] + [70.0] * 9
    ahead = [{"train_accuracy": 80.0 + epoch} for epoch in range(12)]
    level = [{"train_accuracy": 70.0 + epoch} for epoch in range(12)]
    settings = {"seed_depths": (1,), "max_depths": (9,), "interval": 1, "window": 3, "max_gap": 8.0}
    policy = gap(**settings, threshold=0.05)
    stopped = replay(policy, validation, measurements=ahead)
    # Validation last gained before epoch 3; the window of three epochs is level at epoch 6.
    assert (stopped.growth_epochs, stopped.depths, stopped.finished) == (6, (6,), True)
    # Train gains still, and is not yet so far ahead: the net underfits and goes on.
    assert replay(policy, validation[:8], measurements=level[:8]).finished is False
    with pytest.raises(UserError, match="3 measurements for 12 accuracies"):
        replay(policy, validation, measurements=ahead[:3])
