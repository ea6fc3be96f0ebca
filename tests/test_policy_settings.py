"""Wrong settings and states are refused with a message that says what is accepted."""

import pytest

from autogrow_jax.errors import UserError
from autogrow_jax.growth import convergent, periodic


@pytest.mark.parametrize("build", [periodic, convergent])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(seed_depths=()), "seed_depths is empty"),
        (dict(seed_depths=(1, 1)), "max_depths=.* has 3 entries"),
        (dict(seed_depths=(1, 201, 1)), "starts stage 1 with 201 blocks"),
        (dict(seed_depths=(1, 0, 1)), r"seed_depths\[1\]=0"),
        (dict(seed_depths=3), "one whole number for each stage"),
        (dict(seed_depths="1-1-1"), "one whole number for each stage"),
        (dict(max_depths=(9, 9.5, 9)), r"max_depths\[1\]=9.5"),
        (dict(interval=0), "interval=0 must be a whole number of at least 1"),
        (dict(interval=True), "interval=True"),
        (dict(max_growth_epochs=0), "max_growth_epochs=0"),
        (dict(threshold=-0.1), "threshold=-0.1"),
        (dict(threshold=float("nan")), "threshold=nan"),
        (dict(threshold="low"), "threshold='low'"),
        (dict(metric="maximum"), "did you mean 'max'"),
        (dict(mode="groups"), "did you mean 'group'"),
        (dict(mode="sub"), "needs sub"),
        (dict(mode="sub", sub=(1, 1)), "one entry for each"),
        (dict(mode="sub", sub=(0, 0, 0)), "not all of them 0"),
        (dict(sub=(1, 1, 1)), "used by mode='sub' only"),
        (dict(mode="rate", rate=0), "rate above 0"),
        (dict(seed=0.5), "seed=0.5"),
    ],
)
def test_a_wrong_setting_is_refused(build, settings, message):
    with pytest.raises(UserError, match=message):
        build(**settings)


def test_a_wrong_window_is_refused():
    with pytest.raises(UserError, match="window=0"):
        periodic(window=0)


@pytest.mark.parametrize("accuracy", [float("nan"), float("inf")])
def test_an_accuracy_that_is_not_finite_is_a_fault_not_a_setting(accuracy):
    policy = periodic()
    with pytest.raises(ValueError, match="finite") as caught:
        policy.update(policy.init(), accuracy)
    assert not isinstance(caught.value, UserError)


def test_the_state_of_a_net_with_other_stages_is_refused():
    with pytest.raises(UserError, match="has 4 stages"):
        periodic().update(periodic((1,) * 4, (9,) * 4).init(), 50.0)
