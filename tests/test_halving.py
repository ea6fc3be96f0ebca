"""The rules of a front: which nets are kept, trained on, stopped, recommended."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autogrow_jax.growth import standard_error
from autogrow_jax.halving import (
    MOST,
    RUNGS,
    Stop,
    afford,
    brier_scores,
    compare,
    find_next,
    recommend,
    thin,
)

COSTS = st.lists(st.integers(1, 10**9), min_size=1, max_size=12, unique=True).map(sorted)


@given(COSTS, st.integers(2, 6))
def test_the_first_and_the_last_are_kept_and_no_more_than_wanted(costs, most):
    kept = thin(costs, most)
    assert kept == sorted(set(kept))
    assert len(kept) == min(most, len(costs))
    assert {0, len(costs) - 1} <= set(kept)


def test_kept_on_the_way_costs_are_about_geometric():
    """Wherever growth ends: no gap is wide beside the even one."""
    for last in range(MOST, 200):
        kept: list[int] = []
        for cost in range(1, last + 1):
            kept.append(cost)
            kept = [kept[i] for i in thin(kept, MOST)]
        even = last ** (1 / (MOST - 1))
        widest = max(after / before for before, after in pairwise(kept))
        assert (kept[0], kept[-1], len(kept)) == (1, last, MOST)
        assert widest <= max(2.0, even**2), (last, kept)


@given(COSTS, st.floats(0, 1e12), st.integers(1, 200))
def test_what_is_chosen_costs_at_most_twice_growth_and_one_fine_tuning(costs, grown, length):
    kept = afford(costs, grown, length)
    assert {0, len(costs) - 1} <= set(kept)
    front = length * sum(costs[i] for i in kept)
    assert grown + front <= 2 * (grown + length * costs[-1]) * (1 + 1e-12)


def test_nothing_that_can_be_afforded_is_left_out():
    assert afford([1, 2, 4, 8], 0, 10) == [0, 1, 2, 3]  # 15 of 16.
    assert afford([2, 4, 6, 8], 0, 10) == [0, 1, 3]
    assert afford([2, 4, 6, 8], 40, 10) == [0, 1, 2, 3]


def test_what_is_chosen_is_the_closest_to_geometric_that_can_be_afforded():
    """As many blocks a stage as plain nets have them: to take one by one away missed the fourth."""
    costs = [2.4, 3.6, 4.8, 6.0, 7.2, 8.3, 9.5, 10.7]
    assert afford(costs, 231, 80) == [0, 1, 3, 7]
    assert afford([1.0], 5, 10) == [0] and afford([1.0, 9.0], 0, 10) == [0, 1]


def _play(accuracy, nets, length, spared=()):
    """Trains as told; returns the order, as (net, epoch), and who was stopped."""
    curves: list[list[float]] = [[] for _ in range(nets)]
    order = []
    while True:
        place, stopped = find_next(curves, length, spared)
        if place is None:
            return order, stopped, curves
        order.append((place, len(curves[place])))
        curves[place].append(accuracy(place, len(curves[place])))


def test_all_train_up_to_a_rung_before_any_goes_on():
    order, stopped, _ = _play(lambda place, epoch: 50.0 + place, 3, 8)
    rounds = [range(5), (5,), (6, 7)]
    assert order == [(place, e) for part in rounds for place in (2, 1, 0) for e in part]
    assert stopped == []  # None is dominated.


def test_at_a_rung_the_dominated_are_stopped_the_worst_half_at_most():
    _, stopped, curves = _play(lambda place, epoch: [90.0, 80.0, 95.0, 94.0, 70.0][place], 5, 8)
    # 4 and 1 at the first rung; 3 at the next, and of the two that stay none is dominated.
    assert stopped == [Stop(4, 5, 2), Stop(1, 5, 0), Stop(3, 6, 2)]
    assert [len(curve) for curve in curves] == [8, 5, 8, 6, 5]


def test_none_is_stopped_before_the_learning_rate_has_fallen():
    """A net that is far behind in the first half, at the high rate, and ahead at the end."""
    _, stopped, _ = _play(lambda place, epoch: [90.0, 50.0 if epoch < 4 else 91.0][place], 2, 8)
    assert stopped == []


@pytest.mark.parametrize("length", range(1, 13))
def test_nor_are_there_rungs_in_the_first_half_of_few_epochs(length):
    _, stopped, _ = _play(lambda place, epoch: 90.0 - place, 8, length)
    assert all(length < 2 * stop.epochs < 2 * length for stop in stopped)
    assert bool(stopped) == (length > 2)


def test_a_net_that_is_spared_is_not_stopped():
    _, stopped, curves = _play(lambda place, epoch: 90.0 - 5 * place, 3, 8, spared=[2])
    assert stopped == [Stop(1, 5, 0)]
    assert len(curves[2]) == 8


@given(st.data(), st.integers(1, 6), st.integers(1, 12))
def test_the_cheapest_and_whoever_is_best_train_to_the_end(data, nets, length):
    known = {}

    def accuracy(place, epoch):
        return known.setdefault((place, epoch), data.draw(st.integers(0, 5)))

    order, stopped, curves = _play(accuracy, nets, length)
    assert len(set(order)) == len(order)
    full = [place for place, curve in enumerate(curves) if len(curve) == length]
    assert 0 in full
    assert {stop.place for stop in stopped} | set(full) == set(range(nets))
    rungs = {part * length // whole for part, whole in RUNGS}
    for stop in stopped:
        assert stop.epochs == len(curves[stop.place]) and stop.epochs in rungs
        assert stop.cheaper < stop.place
        own, other = (max(curves[i][: stop.epochs]) for i in (stop.place, stop.cheaper))
        assert other >= own


def test_what_was_recorded_decides_so_a_resumed_run_goes_on_the_same():
    order, *_ = _play(lambda place, epoch: (7 * place + 3 * epoch) % 5, 4, 8)
    curves: list[list[float]] = [[] for _ in range(4)]
    for place, epoch in order:
        assert find_next([list(curve) for curve in curves], 8)[0] == place
        curves[place].append((7 * place + 3 * epoch) % 5)


def test_the_standard_error_is_the_binomials_with_two_right_and_two_wrong_more():
    assert standard_error(90.0, 100) == pytest.approx(100 * math.sqrt(92 * 12 / 104**3))
    assert standard_error(50.0, 10_000) == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize("images", [1, 9, 145, 5000])
def test_one_image_never_decides_and_nothing_is_certain(images):
    """Where all are right, or none, the binomial's is 0."""
    error = standard_error(100.0, images)
    assert error > 0 and error == pytest.approx(standard_error(0.0, images))
    # Of few images it is narrower than one of them, so wide is that one.
    assert images < 13 or 100 / images < error < 200 / images


@pytest.mark.parametrize(
    "choose, accuracies, expected",
    [
        ("one_se", [86.8, 87.0, 90.0, 89.0], 1),  # The standard error of 90 % is 3.1 points.
        ("one_se", [86.8, 86.8, 90.0, 89.0], 2),
        ("best", [87.5, 90.0, 90.0, 89.0], 1),
        ("last", [87.5, 90.0, 90.0, 89.0], 3),
        ("one_se", [100.0, 99.0, 100.0], 0),
        ("one_se", [98.0, 99.0, 100.0], 1),  # The standard error of 100 % is 1.3 points.
        ("best", [50.0, 48.0, 49.0], 0),
    ],
)
def test_the_cheapest_within_a_standard_error_the_best_or_the_last(choose, accuracies, expected):
    assert recommend(accuracies, 100, choose) == expected


def test_the_brier_score_is_the_squared_distance_from_the_truth():
    """Of chances that are calibrated already: of ten images with 0.7 for a class seven have it."""
    logits = np.log(np.tile([0.7, 0.2, 0.1], (10, 1)))
    labels = np.array([0] * 7 + [1] * 2 + [2])
    right, second, third = 0.3**2 + 0.2**2 + 0.1**2, 0.7**2 + 0.8**2 + 0.1**2, 0.7**2 + 0.04 + 0.81
    expected = [right] * 7 + [second] * 2 + [third]
    np.testing.assert_allclose(brier_scores(logits, labels), expected, rtol=2e-3)


@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_how_sure_a_net_is_on_the_whole_does_not_count(factor):
    source = np.random.default_rng(0)
    logits = source.normal(size=(200, 5))
    labels = np.array([source.choice(5, p=np.exp(row) / np.exp(row).sum()) for row in logits])
    scores = brier_scores(factor * logits, labels)
    np.testing.assert_allclose(scores, brier_scores(logits, labels), atol=5e-3)
    assert brier_scores(np.zeros((4, 5)), labels[:4]) == pytest.approx([0.8] * 4)


def test_what_is_not_finite_scores_worst_and_disturbs_no_other():
    logits = np.array([[np.nan, 0.0], [np.inf, 0.0], [5.0, 0.0], [0.0, 5.0]])
    labels = np.array([0, 0, 0, 1])
    np.testing.assert_allclose(brier_scores(logits, labels), [2.0, 2.0, 0.0, 0.0], atol=1e-6)
    np.testing.assert_array_equal(brier_scores(logits[:2], labels[:2]), [2.0, 2.0])


def test_scores_are_compared_on_the_same_images():
    """Though they scatter more than their difference, which is the same on each image."""
    scatter = np.random.default_rng(0).uniform(0, 1, 400)
    (behind, error), (none, least) = compare([scatter + 0.01, scatter])
    assert behind == pytest.approx(0.01) and none == 0.0
    assert error == pytest.approx(least) == 2 / 400
    uneven = scatter + np.tile([0.0, 0.1], 200)
    behind, error = compare([uneven, scatter])[0]
    assert behind == pytest.approx(0.05)
    assert error == pytest.approx(math.sqrt(400 * 0.05**2 + 4) / 400)


@pytest.mark.parametrize(
    "choose, behind, expected",
    [
        # An error is 0.01 where all images differ alike.
        ("one_se_brier", [0.02, 0.008, 0.0, 0.001], 1),
        ("one_se_brier", [0.0099, 0.008, 0.0, 0.001], 0),
        ("one_se_brier", [0.02, 0.02, 0.02, 0.0], 3),
        ("one_se_brier", [0.0, 0.0, 0.0, 0.0], 0),
        ("half_se_brier", [0.008, 0.0051, 0.0, 0.001], 2),
        ("half_se_brier", [0.008, 0.0049, 0.0, 0.001], 1),
    ],
)
def test_the_cheapest_within_a_standard_error_of_the_best_score(choose, behind, expected):
    scores = [np.full(200, 0.3 + each) for each in behind]
    accuracies = [99.0, 50.0, 50.0, 50.0]  # Say nothing then.
    assert recommend(accuracies, 200, choose, scores=scores) == expected


def test_of_scores_too_only_those_of_nets_that_are_fast_enough_count():
    scores = [np.full(200, each) for each in (0.4, 0.3, 0.1)]
    given = [50.0] * 3, 200, "one_se_brier", [1.0, 2.0, 3.0]
    assert recommend(*given, 2.5, scores) == 1
    assert recommend(*given, 0.0, scores) == 2


def test_a_limit_of_time_leaves_out_what_is_slower():
    times, accuracies = [1.0, 2.0, 3.0], [50.0, 80.0, 99.0]
    assert recommend(accuracies, 100, "best", times, 2.5) == 1
    assert recommend(accuracies, 100, "last", times, 2.5) == 1
    assert recommend(accuracies, 100, "best", times, 0.0) == 2
    assert recommend(accuracies, 100, "best", times, 0.5) == 0  # None is so fast.
