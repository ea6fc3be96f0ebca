"""The stop rules beyond the paper's: hand-worked traces, and how they relate to `periodic`."""

import copy
import functools
import itertools
import json
import random
from typing import Any

import numpy as np
import pytest

from autogrow_jax.errors import UserError
from autogrow_jax.growth import (
    Decision,
    Limits,
    Rule,
    convergent,
    efficiency,
    gap,
    limited,
    periodic,
    replay,
    slope,
)
from autogrow_jax.growth.mechanism import fitted_gain


def random_curve(rng, epochs):
    top, speed, noise = rng.uniform(5, 95), rng.uniform(0.005, 0.3), rng.choice([0.0, 0.05, 2.0])
    level, curve = 0.0, []
    for _ in range(epochs):
        level += speed * (top - level)
        curve.append(round(max(0.0, level + rng.gauss(0, noise)), 2))
    return curve


def random_settings(rng) -> dict[str, Any]:
    mode = rng.choice(["group", "group", "all", "sub", "rate"])
    return dict(
        seed_depths=(1, 2, 1),
        max_depths=(rng.choice([3, 200]),) * 3,
        interval=rng.choice([1, 2, 3, 7]),
        window=rng.choice([1, 5, 30]),
        threshold=rng.choice([0.0, 0.05, 0.5]),
        mode=mode,
        sub=[rng.randint(1, 3) for _ in range(3)] if mode == "sub" else None,
        max_growth_epochs=rng.choice([50, 100, 4000]),
        seed=rng.randint(0, 9),
    )


def decisions(policy, curve, train_curve=None):
    """What a policy says after each epoch."""
    state, said = policy.init(), []
    for accuracy, train in zip(curve, train_curve or curve, strict=True):
        state, decision = policy.update(state, accuracy, measurements={"train_accuracy": train})
        said.append(decision)
    return said


def growth_epochs(policy, curve, train_curve=None):
    """Epochs until the growth phase ended; the whole curve where it did not."""
    said = decisions(policy, curve, train_curve)
    return next((i for i, d in enumerate(said, 1) if d.action == "finetune"), len(said))


# One stage, a look after each epoch: the growth phase ends with the first stall after a growth.
ONE_STAGE: dict[str, Any] = dict(seed_depths=(1,), max_depths=(999,), interval=1)


# Slope.


@pytest.mark.parametrize("seed", range(10))
def test_the_fitted_gain_is_that_of_the_least_squares_line(seed):
    rng = np.random.default_rng(seed)
    accuracies = rng.uniform(0, 100, rng.integers(2, 120))
    line = np.polynomial.Polynomial.fit(np.arange(len(accuracies)), accuracies, 1).convert()
    assert fitted_gain(accuracies) == pytest.approx(line.coef[1] * (len(accuracies) - 1), abs=1e-8)
    assert fitted_gain(accuracies[::-1]) == pytest.approx(-fitted_gain(accuracies))
    assert fitted_gain(accuracies + 7.0) == pytest.approx(fitted_gain(accuracies), abs=1e-9)


@pytest.mark.parametrize("window", [5, 30, 100])
def test_a_lucky_epoch_moves_the_fitted_gain_by_no_more_than_the_docstring_says(window):
    level = [70.0] * (window + 1)
    assert fitted_gain(level) == 0.0
    moved = [fitted_gain([*level[:at], 80.0, *level[at + 1 :]]) for at in range(window + 1)]
    assert 0 < max(map(abs, moved)) <= 6 * 10.0 / window


@pytest.mark.parametrize("rise", [-0.02, 0.001, 0.004, 0.03])
@pytest.mark.parametrize("window", [3, 20])
def test_on_a_straight_curve_that_does_not_stand_at_the_threshold_slope_is_periodic(rise, window):
    curve = [40 + rise * epoch for epoch in range(150)]
    settings: dict[str, Any] = dict(interval=2, window=window, threshold=0.05)
    assert decisions(slope(**settings), curve) == decisions(periodic(**settings), curve)


def test_slope_stops_on_a_level_curve_where_periodic_does():
    level = [70.0] * 120
    assert decisions(slope(), level) == decisions(periodic(), level)
    assert not replay(slope(threshold=0.0), level).finished


def test_slope_goes_on_after_a_lucky_epoch_and_stops_in_spite_of_one():
    rising = [50 + epoch / 10 for epoch in range(80)]
    rising[5] = 58.0
    level = [70.0] * 80
    level[60] = 70.1
    settings: dict[str, Any] = dict(**ONE_STAGE, window=30, threshold=0.05)
    assert replay(periodic(**settings), rising).finished
    assert not replay(slope(**settings), rising).finished
    assert replay(slope(**settings), level[30:]).growth_epochs == 31


def test_slope_needs_a_full_window():
    falling = [90.0 - epoch for epoch in range(40)]
    assert replay(slope(**ONE_STAGE, window=20), falling).growth_epochs == 21


# Gap.


@pytest.mark.parametrize(
    "validation_rises, ahead, train_rises, stays_open",
    [
        (True, 30.0, True, True),
        (True, 30.0, False, True),
        (True, 0.0, False, True),
        (False, 30.0, True, False),
        (False, 30.0, False, False),
        (False, 0.0, True, True),
        (False, 0.0, False, False),
    ],
)
def test_the_table_of_gap(validation_rises, ahead, train_rises, stays_open):
    curve = [60 + 0.1 * epoch * validation_rises for epoch in range(60)]
    train = [60 + ahead + 0.1 * epoch * train_rises for epoch in range(60)]
    policy = gap(**ONE_STAGE, window=10, threshold=0.5, max_gap=20.0)
    assert growth_epochs(policy, curve, train) == (60 if stays_open else 11)


def test_the_gap_is_a_mean_over_the_window():
    curve = [60.0] * 20
    train = [60.0 + epoch for epoch in range(20)]
    # After epoch n (from 1) the last 4 gaps are n-4 to n-1, mean n - 2.5: above 10 at n = 13.
    policy = gap(**ONE_STAGE, window=4, threshold=0.5, max_gap=10.0)
    assert growth_epochs(policy, curve, train) == 13
    # One epoch 30 points further ahead is 7.5 of the mean: up to 9.8 in the 14 epochs here, where
    # it first counts 9.2.
    train = [60.0 + epoch / 5 for epoch in range(14)]
    train[10] += 30.0
    settings: dict[str, Any] = dict(**ONE_STAGE, window=4, threshold=0.5)
    assert decisions(gap(**settings, max_gap=10.0), curve[:14], train)[-1].action == "grow"
    assert growth_epochs(gap(**settings, max_gap=9.0), curve[:14], train) == 11


@pytest.mark.parametrize("seed", range(20))
def test_gap_is_periodic_where_train_is_far_ahead_and_never_stops_before_it(seed):
    rng = random.Random(seed)
    settings = random_settings(rng) | {"metric": rng.choice(["max", "avg"])}
    curve = random_curve(rng, 150)
    ahead = [accuracy + 50 for accuracy in curve]
    wanted = decisions(periodic(**settings), curve)
    found = decisions(gap(**settings), curve, ahead)
    assert [decision._replace(notes={}) for decision in found] == wanted
    # In turns the two part ways at the first stage spared, so only whole nets compare.
    settings |= {"mode": "all", "sub": None, "max_depths": (200,) * 3}
    train = random_curve(rng, 150)
    stops = growth_epochs(periodic(**settings), curve)
    assert growth_epochs(gap(**settings), curve, train) >= stops


def test_gap_says_what_it_lacks():
    policy = gap()
    with pytest.raises(UserError, match=r"'gap' needs the measurement 'train_accuracy'.*none"):
        policy.update(policy.init(), 50.0)
    with pytest.raises(UserError, match="given: 'train_loss'"):
        policy.update(policy.init(), 50.0, measurements={"train_loss": 1.0})
    with pytest.raises(ValueError, match="train accuracy is nan"):
        policy.update(policy.init(), 50.0, measurements={"train_accuracy": float("nan")})
    with pytest.raises(UserError, match="max_gap=-1"):
        gap(max_gap=-1)


# Efficiency.


def test_efficiency_by_hand():
    # The cost is the depth. Gains of 8, 4, 2, 1 in an epoch; each epoch began with one block more,
    # so they cost log2(3/2) = 0.58, 0.42, 0.32 doublings from the second growth on.
    curve = [60.0, 68.0, 72.0, 74.0, 75.0]
    settings: dict[str, Any] = dict(**ONE_STAGE, window=1)
    # A point gained for 0.32 doublings is 3.1 a doubling, two for 0.42 are 4.8, four for 0.58 6.8.
    for price, epochs in ((3.0, None), (3.2, 5), (4.7, 5), (4.9, 4), (6.7, 4), (7.0, 3)):
        events = replay(efficiency(sum, **settings, price=price), curve)
        assert events.growth_epochs == (epochs or 5)
        assert events.finished == (epochs is not None)


def test_the_cost_is_compared_over_the_window():
    # A point an epoch, so 3 over the window; the depth is the number of the epoch, so the cost has
    # doubled twice when the window is full, after epoch 4, and less later.
    curve = [50.0 + epoch for epoch in range(20)]
    settings: dict[str, Any] = dict(**ONE_STAGE, window=3)
    assert replay(efficiency(sum, price=1.6, **settings), curve).growth_epochs == 4
    assert not replay(efficiency(sum, price=1.4, **settings), curve).finished


@pytest.mark.parametrize("seed", range(20))
def test_efficiency_for_nothing_is_periodic(seed):
    rng = random.Random(seed)
    settings = random_settings(rng) | {"metric": rng.choice(["max", "avg"])}
    curve = random_curve(rng, 150)
    wanted = decisions(periodic(**settings), curve)
    assert decisions(efficiency(sum, price=0.0, **settings), curve) == wanted


@pytest.mark.parametrize("seed", range(20))
def test_a_higher_price_never_stops_later_and_the_unit_of_cost_does_not_matter(seed):
    rng = random.Random(seed)
    # In turns the two part ways at the first stage frozen, so only whole nets compare.
    settings = random_settings(rng) | {"mode": "all", "sub": None}
    curve = random_curve(rng, 150)

    def cost(depths):
        return 3.0 + 2.0 * depths[0] + depths[1] + 5.0 * depths[2]

    prices = (0.0, 0.5, 3.0, 20.0)
    stops = [growth_epochs(efficiency(cost, price=p, **settings), curve) for p in prices]
    assert stops == sorted(stops, reverse=True)
    in_other_units = efficiency(lambda depths: 1e9 * cost(depths), price=3.0, **settings)
    assert decisions(in_other_units, curve) == decisions(
        efficiency(cost, price=3.0, **settings), curve
    )


@pytest.mark.parametrize("cost", [0.0, -1.0, float("inf"), float("nan")])
def test_a_cost_has_to_be_a_number_above_zero(cost):
    policy = efficiency(lambda depths: cost)
    with pytest.raises(UserError, match=r"cost of depths \(1, 1, 1\) is"):
        policy.update(policy.init(), 50.0)


def test_what_only_one_policy_takes_is_given_by_name():
    """In place of an interval, which others take there, it would mean something else."""
    for make in (gap, functools.partial(efficiency, sum)):
        with pytest.raises(TypeError, match="positional arguments"):
            make((1, 1, 1), (9, 9, 9), 3)


def test_a_price_has_to_be_at_least_zero():
    with pytest.raises(UserError, match=r"price=-0\.5"):
        efficiency(sum, price=-0.5)


# All of them.

MAKERS = [slope, gap, functools.partial(efficiency, sum)]
NAMES = ["slope", "gap", "efficiency"]


@pytest.mark.parametrize("make, name", list(zip(MAKERS, NAMES, strict=True)), ids=NAMES)
@pytest.mark.parametrize("seed", range(15))
def test_invariants_of_any_run(make, name, seed):
    rng = random.Random(f"{name}{seed}")
    settings = random_settings(rng)
    policy = make(**settings)
    assert policy.name == name
    state, depths, over = policy.init(), policy.seed_depths, False
    curves = zip(random_curve(rng, 150), random_curve(rng, 150), strict=True)
    # The end of the interval in which the limit falls.
    last = -(-settings["max_growth_epochs"] // settings["interval"]) * settings["interval"]
    for epochs, (accuracy, train) in enumerate(curves, start=1):
        before = copy.deepcopy(state)
        measurements = {"train_accuracy": train}
        new_state, decision = policy.update(state, accuracy, measurements=measurements)
        assert state == before, "the given state was changed"
        restored = json.loads(json.dumps(state))
        assert restored == state
        assert policy.update(restored, accuracy, measurements=measurements) == (new_state, decision)
        gained = [new - old for new, old in zip(decision.depths, depths, strict=True)]
        assert sorted(decision.stages) == [s for s, n in enumerate(gained) for _ in range(n)]
        assert not any(state["frozen"][stage] for stage in decision.stages)
        assert all(d <= m for d, m in zip(decision.depths, settings["max_depths"], strict=True))
        assert not decision.stages or epochs % settings["interval"] == 0
        if over:
            assert (new_state, decision) == (state, Decision("finetune", depths))
        over = decision.action == "finetune"
        assert new_state["epochs"] <= last
        assert over or epochs < last
        state, depths = new_state, decision.depths
    assert len(state["metric"]) <= settings["window"] + 1


@pytest.mark.parametrize("make", MAKERS, ids=NAMES)
def test_wrong_settings_and_curves_are_refused(make):
    with pytest.raises(UserError, match="window=0"):
        make(window=0)
    with pytest.raises(UserError, match="seed_depths"):
        make(seed_depths=(1, 1))
    with pytest.raises(ValueError, match="validation accuracy is nan"):
        decisions(make(), [float("nan")], [50.0])


@pytest.mark.parametrize("make", MAKERS, ids=NAMES)
def test_restricting_twice_keeps_both_restrictions(make):
    policy = make(interval=1).restrict(lambda depths: depths[0] <= 2)
    policy = policy.restrict(lambda depths: depths[1] <= 3)
    said = decisions(policy, list(range(1, 40)))
    assert said[-1].depths[:2] == (2, 3)
    for before, after in itertools.pairwise(said):
        assert sum(after.depths) <= sum(before.depths) + 1


@pytest.mark.parametrize(
    ("make", "wrong", "message"),
    [
        (slope, "windwo", r"slope\(\) takes no 'windwo'; did you mean 'window'"),
        (slope, "metric", r"slope\(\) takes no 'metric'"),
        (gap, "maxgap", r"gap\(\) takes no 'maxgap'"),
        (convergent, "window", r"convergent\(\) takes no 'window'"),
        (functools.partial(efficiency, sum), "allowed", r"efficiency\(\) takes no 'allowed'"),
    ],
)
def test_a_wrong_keyword_names_the_nearest(make, wrong, message):
    with pytest.raises(TypeError, match=message):
        make(**{wrong: 1})


def test_a_stop_rule_of_ones_own_serves_periodic_growth():
    def three_epochs(settings):
        return Rule(lambda *_: 0, lambda history: len(history) >= 3)

    policy = periodic((1,), (9,), interval=1, stop=three_epochs)
    assert replay(policy, [50.0] * 9).growth == [(1, (2,)), (2, (3,))]
    limited = policy.restrict(lambda depths: depths != (3,))
    assert replay(limited, [50.0] * 9).growth == [(1, (2,))]


def test_the_policy_says_how_the_rate_falls_after_it():
    assert (convergent().schedule, periodic().schedule) == ("convergent", "staircase")
    held = limited(convergent(), Limits(max_seconds=9.0))
    assert held.restrict(lambda depths: True).schedule == held.schedule == "convergent"
