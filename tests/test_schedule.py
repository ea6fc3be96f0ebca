"""Learning rates: the paper's staircases, and properties of all schedules."""

import pytest

from autogrow_jax.errors import UserError
from autogrow_jax.growth import POLICIES
from autogrow_jax.optim import SCHEDULES, make_schedule


def runs(name, epochs, base_rate=0.1, policy=None, phase="finetune"):
    schedule = make_schedule(name, base_rate, policy)
    rates = [schedule(phase, epoch, epochs) for epoch in range(epochs)]
    return [(rate, rates.count(rate)) for rate in sorted(set(rates), reverse=True)]


@pytest.mark.parametrize(
    ("name", "epochs", "expected"),
    [
        ("staircase", 200, [(0.1, 100), (0.01, 50), (0.001, 50)]),
        ("thirds", 90, [(0.1, 30), (0.01, 30), (0.001, 30)]),
        ("convergent", 100, [(0.01, 50), (0.001, 50)]),
        ("constant", 7, [(0.1, 7)]),
        ("staircase", 7, [(0.1, 3), (0.01, 2), (0.001, 2)]),
        ("staircase", 0, []),
    ],
)
def test_the_rates_of_a_phase_are_exact(name, epochs, expected):
    assert runs(name, epochs) == expected
    assert runs(name, epochs, phase="scratch") == expected


def test_the_rate_of_plain_nets_is_exact_too():
    assert runs("staircase", 4, base_rate=0.01) == [(0.01, 2), (0.001, 1), (0.0001, 1)]


def test_auto_takes_the_tail_that_belongs_to_the_policy():
    assert runs("auto", 20, policy="convergent") == runs("convergent", 20)
    for policy in (None, "periodic", "custom"):
        assert runs("auto", 20, policy=policy) == runs("staircase", 20)
    # The from-scratch baseline has no growth phase behind it, so it must not start at 0.01.
    assert runs("auto", 20, policy="convergent", phase="scratch") == runs("staircase", 20)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("epochs", [1, 2, 3, 10, 201])
def test_any_schedule_is_constant_in_growth_and_never_rises_after(name, epochs):
    schedule = make_schedule(name, 0.3, "convergent")
    assert {schedule("growth", epoch, epochs) for epoch in range(5000)} == {0.3}
    rates = [schedule("finetune", epoch, epochs) for epoch in range(epochs)]
    assert rates == sorted(rates, reverse=True)
    assert 0.0 < rates[-1] <= rates[0] <= 0.3


def test_cosine_runs_from_the_base_rate_towards_zero():
    schedule = make_schedule("cosine", 0.1)
    rates = [schedule("finetune", epoch, 10) for epoch in range(10)]
    assert rates[0] == 0.1
    for epoch in range(1, 10):
        assert rates[epoch] + rates[10 - epoch] == pytest.approx(0.1)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_may_stand_for_its_schedule_by_name(policy):
    wanted = "convergent" if policy == "convergent" else "staircase"
    assert runs("auto", 20, policy=policy) == runs(wanted, 20)


def test_mistakes_are_refused():
    with pytest.raises(UserError, match="did you mean 'staircase'"):
        make_schedule("stairs", 0.1)
    with pytest.raises(UserError, match="above 0"):
        make_schedule("cosine", 0.0)
    with pytest.raises(UserError, match="did you mean 'cosine'"):
        make_schedule("auto", 0.1, "cosin")
    schedule = make_schedule("auto", 0.1)
    with pytest.raises(UserError, match=r"no phase 'growing'; .*Known: growth, finetune, scratch"):
        schedule("growing", 0, 10)
    for epoch in (-1, 10):
        with pytest.raises(ValueError, match="outside of a finetune phase of 10"):
            schedule("finetune", epoch, 10)
