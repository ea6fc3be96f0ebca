"""Lookahead growth: a hand-worked course, its limits, and properties over random runs."""

import copy
import json
import random
from typing import Any

import pytest

from autogrow_jax.errors import UserError
from autogrow_jax.growth import Decision, periodic, replay
from autogrow_jax.growth.limits import Limits, limited
from autogrow_jax.growth.lookahead import lookahead


def _decisions(policy, accuracies):
    state, decisions = policy.init(), []
    for accuracy in accuracies:
        state, decision = policy.update(state, accuracy)
        decisions.append(decision)
    return decisions


def test_a_course_worked_by_hand():
    policy = lookahead((1, 1), (9, 9), interval=2, window=2, threshold=0.5)
    curve = [
        *(50, 60),  # 1-1; window not full. Trials of stages 0 and 1 follow:
        *(55, 58),  # stage 1 is kept; its 58 is the first epoch of the interval
        65,  # 1-2; maximum 50 60 60 65: +5 in two epochs. Trials of stages 0 and 1 follow:
        *(64, 63),  # stage 0 is kept
        65,  # 2-2; 60 65 65 65: stalled, freeze stage 0. Only stage 1 is open: it grows untried
        *(65, 65),  # 2-3; stalled, freeze stage 1, nothing is open
        *(70, 71, 72),  # fine-tune
    ]
    events = replay(policy, curve)
    assert events.growth == [(4, (1, 2)), (7, (2, 2)), (8, (2, 3))]
    assert (events.depths, events.growth_epochs, events.finetune_epochs) == ((2, 3), 10, 3)
    assert (events.finished, events.trial_epochs) == (True, 4)
    assert _decisions(policy, curve[:10]) == [
        Decision("train", (1, 1)),
        Decision("trial", (2, 1), (0,)),
        Decision("trial", (1, 2), (1,), best=0),
        Decision("grow", (1, 2), (1,)),
        Decision("trial", (2, 2), (0,)),
        Decision("trial", (1, 3), (1,), best=0),
        Decision("grow", (2, 2), (0,)),
        Decision("grow", (2, 3), (1,)),
        Decision("train", (2, 3)),
        Decision("finetune", (2, 3)),
    ]


def test_a_curve_that_ends_within_a_round_has_the_depths_of_the_kept_net():
    events = replay(lookahead(interval=2), [50.0, 60.0, 70.0])
    assert (events.depths, events.growth, events.trial_epochs) == ((1, 1, 1), [], 1)


def test_trials_that_are_not_kept_do_not_enter_the_metric():
    policy = lookahead((1, 1), (9, 9), interval=2, window=9, metric="avg")
    state = policy.init()
    for accuracy in (50.0, 60.0, 40.0, 45.0):
        state, decision = policy.update(state, accuracy)
    assert decision == Decision("grow", (1, 2), (1,))
    average, expected = 0.0, []
    for accuracy in (50.0, 60.0, 45.0):
        average = 0.95 * average + 0.05 * accuracy
        expected.append(average)
    assert state["metric"] == pytest.approx(expected)


def test_of_equal_trials_the_next_by_turns_is_kept_as_in_periodic_growth():
    depths = (1, 1, 1)
    turns = [d for _, d in replay(periodic(depths, interval=2), [70.0] * 40).growth]
    tried = [d for _, d in replay(lookahead(depths, interval=2), [70.0] * 40).growth]
    assert len(tried) > 5
    assert tried == turns[: len(tried)]


def test_a_single_open_stage_grows_untried():
    events = replay(lookahead((1, 1), (1, 9), interval=3), range(20))
    assert events.trial_epochs == 0
    assert events.growth == replay(periodic((1, 1), (1, 9), interval=3), range(20)).growth


@pytest.mark.parametrize(
    ("limit", "grown"), [(4, []), (5, [(5, (2, 1, 1))]), (8, [(5, (2, 1, 1))])]
)
def test_a_round_that_does_not_fit_is_not_begun(limit, grown):
    # Two epochs, three trials, of which the first epoch of the next interval; one more, and three.
    events = replay(lookahead(interval=2, max_growth_epochs=limit), [70.0] * 50)
    assert (events.growth_epochs, events.growth) == (limit, grown)
    assert events.finished


def test_the_epoch_that_fills_the_budget_keeps_the_best_trial_and_ends():
    policy = lookahead((1, 1), interval=2, max_depths=(9, 9), max_growth_epochs=4)
    decisions = _decisions(policy, [50.0, 60.0, 55.0, 58.0, 99.0])
    assert decisions[3:] == [Decision("finetune", (1, 2), (1,)), Decision("finetune", (1, 2))]


def test_limits_close_stages_and_keep_the_depths_right_where_they_break_a_round_off():
    policy = lookahead((1, 1), (9, 9), interval=2).restrict(lambda depths: depths[0] < 3)
    assert max(depths[0] for _, depths in replay(policy, range(60)).growth) == 2
    timed = limited(lookahead((1, 1), (9, 9), interval=2), Limits(max_seconds=2.5))
    state = timed.init()
    for seconds, accuracy in enumerate((50.0, 60.0, 70.0), start=1):
        state, decision = timed.update(state, accuracy, measurements={"seconds": float(seconds)})
    assert decision == Decision("finetune", (1, 1))


@pytest.mark.parametrize("interval", [1, 0, 1.5, True])
def test_an_interval_without_an_epoch_after_the_trial_is_refused(interval):
    with pytest.raises(UserError, match=f"interval={interval}.*at least"):
        lookahead(interval=interval)


def test_an_accuracy_that_is_not_finite_is_refused_in_trials_too():
    policy = lookahead(interval=2)
    state, _ = policy.update(policy.init(), 50.0)
    state, decision = policy.update(state, 50.0)
    assert decision.action == "trial"
    with pytest.raises(ValueError, match="the validation accuracy is nan"):
        policy.update(state, float("nan"))
    with pytest.raises(UserError, match="has 3 stages"):
        lookahead((1,), (9,)).update(state, 50.0)


@pytest.mark.parametrize("seed", range(40))
def test_invariants_of_any_run(seed):
    rng = random.Random(seed)
    num_stages = rng.randint(1, 4)
    seed_depths = [rng.randint(1, 3) for _ in range(num_stages)]
    most = [depth + rng.choice([0, 1, 4, 30]) for depth in seed_depths]
    settings: dict[str, Any] = dict(
        interval=rng.choice([2, 3, 7]),
        window=rng.choice([1, 5, 30]),
        threshold=rng.choice([0.0, 0.05, 2.0]),
        metric=rng.choice(["max", "avg"]),
        max_growth_epochs=rng.choice([1, 30, 100, 150]),
    )
    policy = lookahead(seed_depths, most, **settings)
    state, kept = policy.init(), tuple(seed_depths)
    tried: dict[int, float] = {}  # of the open round, in the order of the trials
    on_trial, epochs_since, finished = None, 0, False
    for epochs in range(1, 201):
        accuracy = round(rng.uniform(0, 100), 1)
        before = copy.deepcopy(state)
        new_state, decision = policy.update(state, accuracy, measurements={"seconds": 1.0})
        assert state == before, "the given state was changed"
        restored = json.loads(json.dumps(state))
        assert restored == state
        assert policy.update(restored, accuracy) == (new_state, decision)
        gained = [decision.stages.count(i) for i in range(num_stages)]
        assert decision.depths == tuple(d + g for d, g in zip(kept, gained, strict=True))
        assert all(d <= m for d, m in zip(decision.depths, most, strict=True))
        assert len(decision.stages) <= 1
        if finished:
            assert (new_state, decision) == (state, Decision("finetune", kept))
            continue
        if on_trial is None:
            epochs_since += 1
        else:
            tried[on_trial] = accuracy
        if decision.action == "trial":
            if on_trial is None:
                assert epochs_since % settings["interval"] == 0
            assert decision.stages[0] not in tried
            assert decision.best == (max(tried, key=lambda s: tried[s]) if tried else None)
            on_trial = decision.stages[0]
        else:
            assert decision.best is None
            if tried:
                # As many trials as open stages, and the best of them is kept.
                frozen, depths = before["frozen"], before["depths"]
                open_stages = [
                    i for i in range(num_stages) if depths[i] < most[i] and not frozen[i]
                ]
                assert sorted(tried) == open_stages
                assert decision.stages == (max(tried, key=lambda s: tried[s]),)
                epochs_since = 1
            elif decision.stages:
                epochs_since = 0
            tried, on_trial, kept = {}, None, decision.depths
        finished = decision.action == "finetune"
        assert finished or epochs < settings["max_growth_epochs"]
        assert all(n >= b for n, b in zip(new_state["frozen"], before["frozen"], strict=True))
        assert len(new_state["metric"]) <= settings["window"] + 1
        state = new_state
    assert finished
