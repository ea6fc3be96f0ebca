"""Limits on growth: never passed, closing no more than they must, for any policy."""

import copy
import functools
import itertools
import json
import random
from typing import Any, NamedTuple

import pytest

from autogrow_jax.errors import UserError
from autogrow_jax.growth import (
    Decision,
    Limits,
    Policy,
    convergent,
    efficiency,
    gap,
    limited,
    lookahead,
    periodic,
    replay,
    slope,
)


class _Cost(NamedTuple):
    num_params: int
    macs: int

    @property
    def flops(self) -> int:
        return 2 * self.macs


def cost(depths):
    """As of a net whose later stages have more parameters and take less work."""
    return _Cost(
        100 + sum(10 * 4**stage * depth for stage, depth in enumerate(depths)),
        50 + sum((40, 30, 20, 10)[stage] * depth for stage, depth in enumerate(depths)),
    )


def fits(depths, limits):
    found = cost(depths)
    return found.num_params <= (limits.max_params or 1e18) and found.flops <= (
        limits.max_flops or 1e18
    )


NO_LIMIT_IN_PRACTICE = Limits(1e15, 1e15, 1e15, 1e15)
MAKERS = {
    "periodic": periodic,
    "convergent": convergent,
    "slope": slope,
    "gap": gap,
    "efficiency": functools.partial(efficiency, sum),
    "lookahead": lookahead,
}


def random_policy(name, rng):
    mode = rng.choice(["group", "group", "all", "sub", "rate"])
    settings: dict[str, Any] = dict(
        interval=rng.choice([2, 3]), threshold=rng.choice([0.0, 0.05, 0.5])
    )
    if name != "convergent":
        settings |= dict(window=rng.choice([5, 30]))
    if name != "lookahead":
        settings |= dict(mode=mode, sub=[1, 2, 3] if mode == "sub" else None, rate=0.5)
    return MAKERS[name](**settings, max_growth_epochs=rng.choice([60, 4000]))


def random_epochs(rng, epochs):
    """Validation accuracy and measurements of each epoch."""
    level, seconds = 0.0, 0.0
    for _ in range(epochs):
        level += 0.1 * (80 - level)
        seconds += rng.uniform(1, 2)
        accuracy = max(0.0, level + rng.gauss(0, 0.5))
        yield (
            accuracy,
            {
                "train_accuracy": accuracy + rng.uniform(-5, 9),
                "seconds": seconds,
                "latency": rng.uniform(0.001, 0.002),
            },
        )


def course(policy, epochs):
    """What a policy says after each epoch."""
    state, said = policy.init(), []
    for accuracy, measurements in epochs:
        state, decision = policy.update(state, accuracy, measurements=measurements)
        said.append(decision)
    return said


@pytest.mark.parametrize("name", MAKERS)
def test_without_a_limit_it_is_the_policy_itself(name):
    policy = MAKERS[name]()
    assert limited(policy, Limits()) is policy


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("seed", range(8))
def test_limits_that_are_never_met_change_no_decision(name, seed):
    rng = random.Random(f"{name}{seed}")
    policy = random_policy(name, rng)
    epochs = list(random_epochs(rng, 150))
    wrapped = limited(policy, NO_LIMIT_IN_PRACTICE, cost)
    assert (wrapped.name, wrapped.seed_depths) == (policy.name, policy.seed_depths)
    assert course(wrapped, epochs) == course(policy, epochs)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("seed", range(8))
def test_invariants_of_any_limited_run(name, seed):
    rng = random.Random(f"limited{name}{seed}")
    limits = Limits(
        max_params=rng.choice([0, 700, 1500]),
        max_flops=rng.choice([0, 700, 1500]),
        max_seconds=rng.choice([0, 100]),
        max_latency=rng.choice([0, 1.2]),
    )
    policy = limited(random_policy(name, rng), limits, cost)
    state, kept, over = policy.init(), policy.seed_depths, False
    for accuracy, measurements in random_epochs(rng, 150):
        before = copy.deepcopy(state)
        new_state, decision = policy.update(state, accuracy, measurements=measurements)
        assert state == before, "the given state was changed"
        restored = json.loads(json.dumps(state))
        assert restored == state
        again = policy.update(restored, accuracy, measurements=measurements)
        assert again == (new_state, decision)
        assert fits(decision.depths, limits)
        gained = [new - old for new, old in zip(decision.depths, kept, strict=True)]
        assert sorted(decision.stages) == [s for s, n in enumerate(gained) for _ in range(n)]
        assert not over or new_state is state
        if limits.max_seconds and measurements["seconds"] > limits.max_seconds:
            assert decision == Decision("finetune", kept)
        over = over or decision.action == "finetune"
        assert over == (decision.action == "finetune")
        state = new_state
        if decision.action != "trial":
            kept = decision.depths


# Policies whose stop rule never fires on a curve that rises for ever.
TIRELESS = {
    name: functools.partial(make, interval=2, threshold=0.0)
    for name, make in (MAKERS | {"efficiency": functools.partial(efficiency, sum, price=0)}).items()
    if name != "convergent"
}
RISING = [(10.0 + epoch, {"train_accuracy": 10.0 + epoch}) for epoch in range(400)]


@pytest.mark.parametrize("name", TIRELESS)
@pytest.mark.parametrize("limits", [Limits(max_params=1500), Limits(max_flops=1500)])
def test_growth_goes_on_until_no_stage_has_room(name, limits):
    last = course(limited(TIRELESS[name](), limits, cost), RISING)[-1]
    assert last.action == "finetune"
    for stage in range(3):
        assert not fits(tuple(d + (i == stage) for i, d in enumerate(last.depths)), limits)


def test_a_stage_that_does_not_fit_is_passed_over_and_the_others_grow():
    # A block costs 10, 40, 160 parameters; the seed has 310, so 400 leaves 90: stage 2 is closed
    # from the start, stage 1 after one block.
    policy = limited(periodic(interval=1), Limits(max_params=400), cost)
    events = replay(policy, range(1, 50))
    assert [depths for _, depths in events.growth] == [
        (2, 1, 1),
        (2, 2, 1),
        (3, 2, 1),
        (4, 2, 1),
        (5, 2, 1),
        (6, 2, 1),
    ]
    # The last growth is trained for an interval before the phase ends.
    assert (events.finished, events.growth_epochs) == (True, 7)


@pytest.mark.parametrize(
    "mode, depths",
    [
        # 90 parameters of room: blocks of 10, 40 and 160 go in one by one, stage by stage.
        (dict(mode="all"), [(2, 2, 1), (3, 2, 1), (4, 2, 1), (5, 2, 1), (6, 2, 1)]),
        (dict(mode="sub", sub=(3, 2, 1)), [(4, 2, 1), (6, 2, 1)]),
    ],
)
def test_what_fits_alone_may_not_fit_together(mode, depths):
    policy = limited(periodic(interval=1, **mode), Limits(max_params=400), cost)
    assert [found for _, found in replay(policy, range(1, 50)).growth] == depths


def test_flops_are_two_for_each_multiply_add():
    # The seed takes 140 multiply-adds; a block of stage 0 adds 40.
    least = limited(periodic((1, 1, 1), interval=1), Limits(max_flops=280), cost)
    assert replay(least, range(1, 9)).growth == []
    with pytest.raises(UserError, match=r"\(1, 1, 1\), has 280 FLOPs, above max_flops=279"):
        limited(periodic(), Limits(max_flops=279), cost).init()


# Seconds.


def _timed(policy, seconds):
    return course(policy, [(50.0 + s, {"seconds": s}) for s in seconds])


def test_growth_ends_after_the_epoch_that_passes_the_seconds():
    said = _timed(limited(periodic(interval=1), Limits(max_seconds=25)), [10, 20, 30, 40])
    assert [decision.action for decision in said] == ["grow", "grow", "finetune", "finetune"]
    # Without the growth that was due: it would never have been trained in the growth phase.
    assert said[2] == said[3] == Decision("finetune", (2, 2, 1))


def test_seconds_break_off_a_round_of_trials_and_keep_the_net_it_began_with():
    policy = limited(lookahead(interval=2), Limits(max_seconds=45))
    said = _timed(policy, [10, 20, 30, 40, 50, 60])
    assert [d.action for d in said[:4]] == ["train", "trial", "trial", "trial"]
    assert said[4] == said[5] == Decision("finetune", (1, 1, 1))


# Latency.


def _with_latency(policy, latencies):
    return course(policy, [(50.0 + i, {"latency": x}) for i, x in enumerate(latencies)])


def test_a_slow_net_grows_no_more():
    policy = limited(periodic(interval=2), Limits(max_latency=3.0))
    said = _with_latency(policy, [0.001, 0.001, 0.002, 0.002, 0.0031, 0.0032])
    assert [decision.action for decision in said] == [
        *("train", "grow", "train", "grow"),
        *("train", "finetune"),
    ]
    assert said[-1].depths == (2, 2, 1)


def test_one_slow_epoch_does_not_end_growth():
    policy = limited(periodic(interval=2), Limits(max_latency=3.0))
    for latencies in ([0.9, 0.001], [0.001, 0.9]):
        assert _with_latency(policy, latencies)[-1].action == "grow"


def test_a_net_is_not_judged_by_the_latency_of_the_one_before():
    policy = limited(periodic(interval=2), Limits(max_latency=3.0))
    assert _with_latency(policy, [0.001, 0.001, 0.005, 0.005])[-1].action == "finetune"


def test_a_kept_net_is_not_judged_by_the_latency_of_a_net_on_trial():
    policy = limited(lookahead((1, 1), (9, 9), interval=2), Limits(max_latency=3.0))
    said = _with_latency(policy, [0.001, 0.001, 0.009, 0.009, 0.002])
    assert [d.action for d in said] == ["train", "trial", "trial", "grow", "trial"]
    said = _with_latency(policy, [0.001, 0.001, 0.001, 0.001, 0.009])
    assert said[-1] == Decision("finetune", said[-2].depths)


@pytest.mark.parametrize(
    "limits, name", [(Limits(max_seconds=9), "seconds"), (Limits(max_latency=9), "latency")]
)
def test_a_measured_limit_says_what_it_lacks(limits, name):
    policy = limited(periodic(), limits)
    with pytest.raises(UserError, match=rf"max_{name} needs the measurement '{name}'"):
        policy.update(policy.init(), 50.0, measurements={"train_accuracy": 50.0})


def test_a_number_of_epochs_ends_growth_within_an_interval_too():
    said = course(limited(periodic(interval=3), Limits(max_epochs=5)), [(50.0, {})] * 6)
    assert [d.action for d in said] == ["train", "train", "grow", "train", "finetune", "finetune"]
    assert said[-1].depths == (2, 1, 1)


def test_the_last_of_a_number_of_epochs_grows_if_that_is_due_and_tries_nothing():
    said = course(limited(periodic(interval=3), Limits(max_epochs=6)), [(50.0, {})] * 7)
    assert said[-2:] == [Decision("finetune", (2, 2, 1), (1,)), Decision("finetune", (2, 2, 1))]
    tries = limited(lookahead((1, 1), (9, 9), interval=2), Limits(max_epochs=3))
    assert course(tries, [(50.0, {})] * 3)[-1] == Decision("finetune", (1, 1))


# Policies of one's own, and limits on limits.


def _deepen_the_last(steps):
    """Grows the last stage after each epoch, and knows of no limit."""

    def update(state, accuracy, *, measurements=None):
        depths = [*state["depths"][:-1], state["depths"][-1] + steps]
        return {"depths": depths}, Decision("grow", tuple(depths), (len(depths) - 1,) * steps)

    return Policy(lambda: {"depths": [1, 1, 1]}, update, (1, 1, 1))


def test_a_policy_that_cannot_close_a_stage_ends_with_the_depths_of_its_net():
    # 310 parameters, then 160 more for each block.
    policy = limited(_deepen_the_last(1), Limits(max_params=700), cost)
    assert policy.restrict is None
    said = course(policy, [(50.0, {})] * 4)
    assert [d.depths for d in said] == [(1, 1, 2), (1, 1, 3), (1, 1, 3), (1, 1, 3)]
    assert [d.action for d in said] == ["grow", "grow", "finetune", "finetune"]


@pytest.mark.parametrize("name", TIRELESS)
def test_limits_on_limits_hold_both(name):
    at_once = course(limited(TIRELESS[name](), Limits(1200, 900), cost), RISING)
    for first, second in itertools.permutations((Limits(max_params=1200), Limits(max_flops=900))):
        nested = limited(limited(TIRELESS[name](), first, cost), second, cost)
        assert course(nested, RISING) == at_once


@pytest.mark.parametrize("name", MAKERS)
def test_a_seed_net_beyond_the_limit_is_refused(name):
    policy = limited(MAKERS[name](), Limits(max_params=300), cost)
    with pytest.raises(UserError, match="310 parameters, above max_params=300; raise the limit"):
        policy.init()


def test_limits_that_make_no_sense_are_refused():
    with pytest.raises(UserError, match="max_seconds=-1"):
        limited(periodic(), Limits(max_seconds=-1))
    with pytest.raises(UserError, match="max_params=nan"):
        limited(periodic(), Limits(max_params=float("nan")), cost)
    with pytest.raises(UserError, match="max_flops needs to know what depths cost"):
        limited(periodic(), Limits(max_flops=1e9))
