"""What a policy may decide, and that training, replay and limits all do what it says."""

import pytest

from autogrow_jax import config as config_lib
from autogrow_jax.errors import UserError
from autogrow_jax.growth import (
    POLICIES,
    Decision,
    Limits,
    Policy,
    limited,
    register_policy,
    replay,
)
from autogrow_jax.reporting import QuietReporter
from autogrow_jax.training import run


def _course(*decisions, seed_depths=(1, 1, 1), name="custom"):
    """A policy of one's own that says these one after the other, and the last one for ever."""

    def update(state, accuracy, *, measurements=None):
        said = decisions[min(state["epochs"], len(decisions) - 1)]
        return {"epochs": state["epochs"] + 1}, said

    return Policy(lambda: {"epochs": 0}, update, seed_depths, name)


def _limited(policy, epochs=1):
    """What limits that nothing reaches say after the last of so many epochs."""
    wrapped = limited(policy, Limits(max_latency=9e9))
    state = wrapped.init()
    for _ in range(epochs):
        state, decision = wrapped.update(state, 50.0, measurements={"latency": 0.001})
    return decision


TWICE = _course(Decision("grow", (3, 1, 1)), Decision("finetune", (3, 1, 1)))


def test_a_run_grows_to_the_depths_that_a_policy_says(tmp_path):
    config = config_lib.default_config()
    config.data.fraction, config.num_devices = 0.2, 1
    config.finetune.epochs, config.growth.policy = 0, "says_depths"
    config.log.progress = config.log.tensorboard = False
    register_policy("says_depths", lambda given: TWICE)
    try:
        result = run(config, tmp_path, reporter=QuietReporter())
    finally:
        POLICIES.pop("says_depths")
    assert result.depths == (3, 1, 1)
    assert [(e["epoch"], e["stage"], e["depths"]) for e in result.growth] == [
        (1, 0, [2, 1, 1]),
        (1, 0, [3, 1, 1]),
    ]


def test_replay_grows_to_the_depths_that_a_policy_says():
    events = replay(TWICE, [50.0, 60.0])
    assert (events.growth, events.depths, events.growth_epochs) == ([(1, (3, 1, 1))], (3, 1, 1), 2)


def test_limits_grow_to_the_depths_that_a_policy_says():
    assert _limited(TWICE) == Decision("grow", (3, 1, 1), (0, 0))
    slow = limited(TWICE, Limits(max_latency=3.0))
    _, decision = slow.update(slow.init(), 50.0, measurements={"latency": 0.009})
    assert decision == Decision("finetune", (1, 1, 1))


def test_the_stages_of_depths_ascend_and_those_given_keep_their_order():
    assert _limited(_course(Decision("grow", (2, 1, 3)))).stages == (0, 2, 2)
    assert _limited(_course(Decision("grow", (2, 1, 2), (2, 0)))).stages == (2, 0)
    assert _limited(_course(Decision("grow", [2, 1, 1]))).depths == (2, 1, 1)
    assert _limited(_course(Decision("finetune", (1, 2, 1)))).stages == (1,)
    assert _limited(_course(Decision("trial", (1, 2, 1)))).stages == (1,)


@pytest.mark.parametrize(
    ("decision", "message"),
    [
        (Decision("grow", (1, 1, 1)), "'grow' to .*the net has them already.*'train'"),
        (Decision("train", (2, 1, 1)), "'train' with .*the net has \\(1, 1, 1\\).*'grow'"),
        (Decision("grow", (3, 1, 1), (0,)), r"stages \(0,\).*ask for \(0, 0\); .*leave stages out"),
        (Decision("grow", (1, 2, 1), (0,)), r"stages \(0,\).*ask for \(1,\)"),
        (Decision("train", (1, 1, 1), (0,)), r"stages \(0,\).*ask for \(\)"),
        (Decision("grow", (2, 0, 1)), "shrink"),
        (Decision("grow", (2, 1)), "2 stages.* has 3"),
        (Decision("grow", (2.5, 1, 1)), "whole number"),
        (Decision("trial", (3, 1, 1)), "a trial adds one block"),
        (Decision("trial", (1, 1, 1)), "a trial adds one block"),
        (Decision("gorw", (2, 1, 1)), "no action 'gorw'.*'grow'"),  # type: ignore[arg-type]
    ],
)
def test_a_decision_that_contradicts_itself_is_refused(decision, message):
    policy = _course(decision, name="mine")
    for carry_out in (lambda: replay(policy, [50.0]), lambda: _limited(policy)):
        with pytest.raises(UserError, match=f"growth policy 'mine'.*{message}"):
            carry_out()
