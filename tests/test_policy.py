"""The growth policies: hand-worked traces, and properties over random runs."""

import copy
import itertools
import json
import random
from typing import Any

import pytest

from autogrow_jax.errors import UserError
from autogrow_jax.growth import (
    Decision,
    convergent,
    lookahead,
    periodic,
    replay,
    slope,
    standard_error,
)

# Hand-worked traces.


@pytest.mark.parametrize(
    ("num_stages", "floor"), [(3, (13, 13, 12)), (4, (10, 10, 10, 10)), (1, (34,))]
)
def test_the_floor_of_a_flat_curve(num_stages, floor):
    # 33 blocks fit before epoch 102, the first end of an interval with 101 epochs behind it. From
    # there each interval freezes the stage grown last, and still grows one that is not frozen.
    policy = periodic((1,) * num_stages, (200,) * num_stages, interval=3, window=100)
    events = replay(policy, [70.0] * 1000)
    assert events.depths == floor
    assert events.growth_epochs == 102 + 3 * (num_stages - 1)
    assert len(events.growth) == 33 + num_stages - 1


def test_periodic_freezes_the_stage_grown_last_and_passes_over_it():
    # Window of 2 epochs, so gain(n) = a[n] - a[n-2] at n = 2, 4, ...: 50 (not full), 0, 10, 0, 0.
    curve = [40, 50, 50, 50, 60, 60, 60, 60, 60, 60]
    events = replay(periodic((1, 1), (9, 9), interval=2, window=2), curve)
    # 2: stage 0 grows. 4: stage 0 is frozen, stage 1 grows. 6: no stall, 0 is closed: 1 grows.
    # 8: stage 1 is frozen, all are, the phase is over.
    assert events.growth == [(2, (2, 1)), (4, (2, 2)), (6, (2, 3))]
    assert (events.depths, events.growth_epochs, events.finetune_epochs) == ((2, 3), 8, 2)


def test_convergent_waits_for_the_curve_and_freezes_only_after_growth():
    curve = [10, 20, 30, 40, 40, 40, 50, 50] + [50] * 12
    events = replay(convergent(interval=2), curve)
    # 6: stalled, stage 0 grows. 8: +10, stage 0 stays open. 10: stalled, but the interval began
    # without growth: nothing is frozen, stage 1 grows. 12: 1 frozen, 2 grows. 14: 2 frozen, 0
    # grows again. 16: 0 frozen, over.
    assert events.growth == [(6, (2, 1, 1)), (10, (2, 2, 1)), (12, (2, 2, 2)), (14, (3, 2, 2))]
    assert events.growth_epochs == 16


@pytest.mark.parametrize("interval", [1, 4, 25])
def test_convergent_needs_two_intervals_before_it_grows(interval):
    events = replay(convergent(interval=interval), [70.0] * 1000)
    assert events.growth == [
        (2 * interval, (2, 1, 1)),
        (3 * interval, (2, 2, 1)),
        (4 * interval, (2, 2, 2)),
    ]
    assert events.growth_epochs == 5 * interval


def test_convergent_grows_at_once_while_the_metric_is_below_the_threshold():
    assert replay(convergent(interval=5), [0.0] * 6).growth == [(5, (2, 1, 1))]


def test_the_average_starts_from_zero_and_is_not_corrected():
    # On a constant curve the average after n epochs is 50 (1 - 0.95^n), so it gains
    # 50 * 0.05 * 0.95^(n-1) in the n-th; a single stage stops with the first gain below tau.
    first = next(n for n in itertools.count(2) if 50 * 0.05 * 0.95 ** (n - 1) < 0.05)
    settings: dict[str, Any] = dict(seed_depths=(1,), max_depths=(999,), interval=1, window=1)
    assert replay(periodic(metric="avg", **settings), [50.0] * 999).growth_epochs == first
    assert replay(periodic(metric="max", **settings), [50.0] * 999).growth_epochs == 2


def test_a_gain_equal_to_the_threshold_is_no_stall():
    settings: dict[str, Any] = dict(seed_depths=(1,), max_depths=(9,), interval=1, window=1)
    curve = [8.0, 8.5, 9.0, 9.25, 9.25]
    assert replay(periodic(threshold=0.5, **settings), curve).growth_epochs == 4
    assert not replay(periodic(threshold=0.0, **settings), curve).finished


def test_a_threshold_may_go_by_the_accuracy():
    """Asked at the end of an interval, with the accuracy of that epoch."""
    settings: dict[str, Any] = dict(seed_depths=(1,), max_depths=(9,), interval=1, window=1)
    curve, seen = [8.0, 8.5, 9.0, 9.25, 9.25], []
    policy = periodic(threshold=lambda accuracy: seen.append(accuracy) or 0.5, **settings)
    assert replay(policy, curve) == replay(periodic(threshold=0.5, **settings), curve)
    assert curve[:4] == [accuracy for accuracy in seen if accuracy]
    assert replay(periodic(threshold=lambda a: 0.5 if a < 9 else 0.0, **settings), curve) == (
        replay(periodic(threshold=0.0, **settings), curve)
    )


@pytest.mark.parametrize("make", [periodic, slope, lookahead])
def test_what_chance_may_give_is_no_gain(make):
    """Half a point in ten epochs, of 90 %: on 100 images an error is 3 points, on 100,000 0.1."""
    curve = [89.0 + 0.05 * epoch for epoch in range(60)]
    few, many = (
        replay(make(interval=2, window=10, threshold=lambda a, n=n: standard_error(a, n)), curve)
        for n in (100, 100_000)
    )
    assert few.finished and not many.finished


def test_convergent_growth_grows_where_the_net_gains_no_more_than_chance_may_give():
    curve = [89.0 + 0.06 * epoch for epoch in range(60)]
    assert replay(convergent(interval=4), curve).growth == []
    steady = replay(convergent(interval=4, threshold=lambda a: standard_error(a, 100)), curve)
    assert steady.growth == [(8, (2, 1, 1)), (12, (2, 2, 1)), (16, (2, 2, 2))]
    assert steady.growth_epochs == 20


def test_a_threshold_of_an_accuracy_has_to_be_a_number_too():
    policy = periodic(interval=1, threshold=lambda accuracy: -accuracy)
    with pytest.raises(UserError, match=r"threshold=-50\.0 must be a finite number of at least 0"):
        replay(policy, [50.0])


@pytest.mark.parametrize("mode", ["all", "sub", "rate"])
def test_modes_without_turns_stop_before_any_growth_below_the_threshold(mode):
    sub = (1, 1, 1) if mode == "sub" else None
    events = replay(periodic(interval=1, threshold=0.2, mode=mode, sub=sub), [0.13] * 9)
    assert (events.growth, events.growth_epochs, events.depths) == ([], 1, (1, 1, 1))


def test_group_mode_has_nothing_to_freeze_before_the_first_growth():
    events = replay(periodic(interval=1, threshold=0.2), [0.13] * 9)
    assert events.growth == [(1, (2, 1, 1)), (2, (2, 2, 1)), (3, (2, 2, 2))]
    assert events.growth_epochs == 4


# Depth limits.


def test_turns_pass_over_stages_at_their_maximum():
    policy = periodic((3, 1, 1), (3, 2, 4), interval=2)
    events = replay(policy, range(100))
    assert [depths for _, depths in events.growth] == [(3, 2, 1), (3, 2, 2), (3, 2, 3), (3, 2, 4)]
    # The last growth is trained for a whole interval before the phase ends.
    assert events.growth_epochs == events.growth[-1][0] + 2


def test_all_and_sub_are_clipped_at_the_maximum():
    grown = replay(periodic((1, 1, 2), (3, 2, 5), interval=1, mode="all"), range(1, 20)).growth
    assert [depths for _, depths in grown] == [(2, 2, 3), (3, 2, 4), (3, 2, 5)]
    policy = periodic((1, 1, 2), (6, 2, 5), interval=1, mode="sub", sub=(2, 0, 2))
    state, decision = policy.update(policy.init(), 1.0)
    assert decision == Decision("grow", (3, 1, 4), (0, 0, 2, 2))
    state, decision = policy.update(state, 2.0)
    assert decision == Decision("grow", (5, 1, 5), (0, 0, 2))
    state, decision = policy.update(state, 3.0)
    assert decision == Decision("grow", (6, 1, 5), (0,))
    assert policy.update(state, 4.0)[1] == Decision("train", (6, 1, 5))


@pytest.mark.parametrize("build", [periodic, convergent])
def test_a_seed_at_its_maximum_trains_one_interval(build):
    events = replay(build((2, 2), (2, 2), interval=4), [70.0] * 50)
    assert (events.growth, events.growth_epochs) == ([], 4)


# The limit on the length of the growth phase.


def test_periodic_grows_once_more_when_the_limit_is_the_end_of_an_interval():
    policy = periodic(interval=3, max_growth_epochs=6)
    state = policy.init()
    decisions = []
    for accuracy in range(6):
        state, decision = policy.update(state, accuracy)
        decisions.append(decision)
    assert decisions[2] == Decision("grow", (2, 1, 1), (0,))
    assert decisions[5] == Decision("finetune", (2, 2, 1), (1,))


@pytest.mark.parametrize("limit", [7, 8, 9])
def test_a_limit_within_an_interval_ends_growth_with_it_after_the_growth_that_is_due(limit):
    events = replay(periodic(interval=3, max_growth_epochs=limit), range(50))
    assert events.growth_epochs == 9
    assert [epoch for epoch, _ in events.growth] == [3, 6, 9]


def test_the_limit_of_the_authors_loop():
    events = replay(periodic(interval=3, max_growth_epochs=400), range(500))
    assert (events.growth_epochs, events.growth[-1][0]) == (402, 402)


def test_convergent_does_not_grow_into_an_interval_that_never_comes():
    curve = [70.0] * 50
    assert replay(convergent(interval=4, max_growth_epochs=8), curve).growth == []
    longer = replay(convergent(interval=4, max_growth_epochs=9), curve)
    assert (longer.growth, longer.growth_epochs) == ([(8, (2, 1, 1))], 12)


# Properties over random settings and curves.


def random_curve(rng, epochs):
    top, speed, noise = rng.uniform(1, 95), rng.uniform(0.005, 0.3), rng.choice([0.0, 0.05, 2.0])
    level, curve = 0.0, []
    for _ in range(epochs):
        level += speed * (top - level)
        curve.append(round(max(0.0, level + rng.gauss(0, noise)), 2))
    return curve


def random_policy(rng):
    num_stages = rng.randint(1, 4)
    mode = rng.choice(["group", "group", "all", "sub", "rate"])
    seed_depths = [rng.randint(1, 3) for _ in range(num_stages)]
    settings: dict[str, Any] = dict(
        seed_depths=seed_depths,
        max_depths=[depth + rng.choice([0, 2, 5, 40]) for depth in seed_depths],
        interval=rng.choice([1, 2, 3, 7]),
        threshold=rng.choice([0.0, 0.05, 0.5]),
        metric=rng.choice(["max", "avg"]),
        mode=mode,
        sub=[rng.randint(1, 3) for _ in range(num_stages)] if mode == "sub" else None,
        rate=rng.choice([0.1, 0.4, 1.5]),
        max_growth_epochs=rng.choice([50, 100, 4000]),
        seed=rng.randint(0, 9),
    )
    if rng.random() < 0.5:
        return convergent(**settings), settings
    return periodic(window=rng.choice([1, 5, 30]), **settings), settings


@pytest.mark.parametrize("seed", range(60))
def test_invariants_of_any_run(seed):
    rng = random.Random(seed)
    policy, settings = random_policy(rng)
    state = policy.init()
    depths = tuple(settings["seed_depths"])
    assert policy.seed_depths == depths
    over = False
    # The end of the interval in which the limit falls.
    last = -(-settings["max_growth_epochs"] // settings["interval"]) * settings["interval"]
    for epochs, accuracy in enumerate(random_curve(rng, 200), start=1):
        before = copy.deepcopy(state)
        new_state, decision = policy.update(state, accuracy, measurements={"cost": 1.0})
        assert state == before, "the given state was changed"
        restored = json.loads(json.dumps(state))
        assert restored == state
        assert policy.update(restored, accuracy) == (new_state, decision)
        gained = tuple(decision.stages.count(i) for i in range(len(depths)))
        assert decision.depths == tuple(d + g for d, g in zip(depths, gained, strict=True))
        limits = zip(decision.depths, settings["max_depths"], strict=True)
        assert all(depth <= most for depth, most in limits)
        assert not any(g and frozen for g, frozen in zip(gained, before["frozen"], strict=True))
        pairs = zip(new_state["frozen"], before["frozen"], strict=True)
        assert all(now >= then for now, then in pairs)
        if decision.stages:
            assert epochs % settings["interval"] == 0
            assert settings["mode"] != "group" or len(decision.stages) == 1
        if over:
            assert (new_state, decision) == (state, Decision("finetune", depths))
        else:
            grows = "grow" if decision.stages else "train"
            assert decision.action in (grows, "finetune")
        over = decision.action == "finetune"
        assert new_state["epochs"] <= last
        assert over or epochs < last
        state, depths = new_state, decision.depths


@pytest.mark.parametrize("seed", range(20))
def test_no_periodic_run_on_a_useful_curve_ends_below_the_floor(seed):
    rng = random.Random(seed)
    interval, window = rng.choice([1, 2, 3, 5]), rng.choice([5, 20, 60])
    settings: dict[str, Any] = dict(interval=interval, window=window, threshold=0.05)
    floor = replay(periodic(**settings), [70.0] * 900)
    curve = [5.0 + accuracy for accuracy in random_curve(rng, 900)]
    events = replay(periodic(**settings), curve)
    assert floor.finished
    assert events.growth_epochs >= floor.growth_epochs
    assert sum(events.depths) >= sum(floor.depths)


@pytest.mark.parametrize("seed", range(20))
def test_a_longer_window_or_a_lower_threshold_never_stops_earlier(seed):
    rng = random.Random(seed)
    curve = random_curve(rng, 300)

    def epochs(window, threshold):
        return replay(periodic(mode="all", window=window, threshold=threshold), curve).growth_epochs

    assert epochs(5, 0.05) <= epochs(20, 0.05) <= epochs(60, 0.05)
    assert epochs(20, 0.5) <= epochs(20, 0.05) <= epochs(20, 0.0)


def test_turns_keep_the_stages_level_while_the_curve_rises():
    for _, depths in replay(periodic(interval=2), range(400)).growth:
        assert max(depths) - min(depths) <= 1
        assert list(depths) == sorted(depths, reverse=True)


@pytest.mark.parametrize("rate", [0.01, 0.4, 1.0])
def test_rate_adds_a_share_of_the_total_in_places_fixed_by_the_seed(rate):
    def grown(seed):
        policy = periodic(interval=1, mode="rate", rate=rate, seed=seed, max_growth_epochs=6)
        return replay(policy, range(1, 50)).growth

    totals = [3] + [sum(depths) for _, depths in grown(0)]
    for before, after in itertools.pairwise(totals):
        assert after == before + max(1, round(rate * before))
    assert grown(0) == grown(0)
    assert len({tuple(grown(seed)) for seed in range(10)}) > 1


def test_rate_fills_up_and_stops():
    policy = periodic((1, 1), (3, 2), interval=1, mode="rate", rate=9.0)
    assert replay(policy, range(1, 9)).growth == [(1, (3, 2))]


@pytest.mark.parametrize(
    "policy", [periodic(window=100, threshold=0.0), convergent(interval=100, threshold=0.0)]
)
def test_the_state_stays_small_over_thousands_of_epochs(policy):
    state = policy.init()
    for accuracy in range(3000):
        state, _ = policy.update(state, accuracy)
    assert len(state["metric"]) == 101
