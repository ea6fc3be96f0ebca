"""A policy as docs/policies.md writes one: its settings, measurements and notes in whole runs."""

import contextlib
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from stand_ins import StopAt, tiny_config, untimed_lines

from autogrow_jax import growth
from autogrow_jax.errors import UserError
from autogrow_jax.growth import MEASUREMENTS, POLICIES, Decision, Policy, register_policy, replay
from autogrow_jax.reporting import QuietReporter
from autogrow_jax.reporting.metrics import read
from autogrow_jax.training import growing as growing_lib
from autogrow_jax.training import run

PAGE = Path(__file__).resolve().parents[1] / "docs" / "policies.md"


@pytest.fixture(scope="module", autouse=True)
def fragrow():
    """The policy of the page, registered."""
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    namespace = vars(growth).copy()
    with contextlib.redirect_stdout(io.StringIO()):
        exec(next(block for block in blocks if "def fragrow" in block), namespace)
    yield namespace["fragrow"]
    del POLICIES["fragrow"]


def _config(**changes):
    """Four blocks more, each after two or three epochs, then an epoch of fine-tuning."""
    own = {
        "growth.policy": "fragrow",
        "growth.own.fragrow.longest": 2,
        "growth.interval": 3,
        "growth.max_depths": (3, 2, 2),
        "finetune.epochs": 1,
    }
    return tiny_config(**own | changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    return workdir, run(_config(), workdir, reporter=QuietReporter())


def test_a_run_keeps_settings_and_notes_of_a_policy_of_ones_own(finished):
    workdir, result = finished
    config = json.loads((workdir / "config.json").read_text())
    assert config["growth"]["own"] == {"fragrow": {"ease": 4.0, "longest": 2}}
    assert result.depths == (3, 2, 2)
    lines = untimed_lines(workdir)
    assert ["notes" in line for line in lines] == [line["phase"] == "growth" for line in lines]
    for line in lines[:-1]:
        gap = line["train_accuracy"] - line["validation_accuracy"]
        wait = 2 / (1 + np.exp(4 - gap))
        assert line["notes"] == pytest.approx({"gap": gap, "wait": wait})


def test_the_lines_of_a_run_replay_it(finished, fragrow):
    workdir, result = finished
    lines = read(workdir / "metrics.jsonl")
    curve = [line["validation_accuracy"] for line in lines]
    policy = fragrow((1, 1, 1), (3, 2, 2), 2, 4.0)
    course = replay(policy, curve, measurements=lines)
    wanted = [(event["epoch"], tuple(event["depths"])) for event in result.growth]
    assert (course.growth, course.depths) == (wanted, result.depths)
    assert list(course.notes) == [line["notes"] for line in lines if "notes" in line]
    with pytest.raises(UserError, match=r"'fragrow' needs the measurement 'train_accuracy'.*none"):
        replay(policy, curve)


def test_a_stopped_run_ends_as_if_it_had_not_been_and_takes_no_other_settings(finished, tmp_path):
    workdir, result = finished
    with pytest.raises(KeyboardInterrupt):
        run(_config(), tmp_path, reporter=StopAt(2))
    with pytest.raises(UserError, match=r"growth\.own\.fragrow\.ease: 4\.0 -> 5\.0"):
        run(_config(**{"growth.own.fragrow.ease": 5.0}), tmp_path, reporter=QuietReporter())
    resumed = run(_config(), tmp_path, reporter=QuietReporter())
    assert untimed_lines(tmp_path) == untimed_lines(workdir)
    assert resumed.test_accuracy == result.test_accuracy


def test_a_run_is_evaluated_where_its_policy_is_not_registered(finished, monkeypatch):
    workdir, result = finished
    monkeypatch.delitem(POLICIES, "fragrow")
    config = {"mode": "evaluate", "log": {"progress": False}, "num_devices": 1}
    evaluated = run(config, workdir, reporter=QuietReporter())
    assert evaluated.test_accuracy == result.test_accuracy


def _growing(**more):
    """Grows stage 0 after each epoch and says what it was given."""
    asked = []

    def update(state, accuracy, *, measurements=None):
        asked.append(dict(measurements) | {"accuracy": accuracy})
        deeper = (*map(int, state["depths"][:-1]), state["depths"][-1] + 1)
        if deeper[-1] > 6:
            return state, Decision("finetune", tuple(state["depths"]))
        return {"depths": list(deeper)}, Decision("grow", deeper)

    return asked, Policy(lambda: {"depths": [1, 1, 1]}, update, (1, 1, 1), "growing", **more)


@pytest.mark.parametrize("foreseeable", [True, False])
def test_a_run_asks_ahead_only_a_policy_that_can_be_asked_so(tmp_path, monkeypatch, foreseeable):
    asked, policy = _growing(foreseeable=foreseeable)
    register_policy("growing", lambda given: policy)
    guesses = []
    foresee = growing_lib.foresee_growths
    monkeypatch.setattr(
        growing_lib,
        "foresee_growths",
        lambda *given: guesses.append(given) or foresee(*given),
    )
    try:
        changes = {"growth.policy": "growing", "finetune.epochs": 0, "growth.capacity": 4}
        run(_config(**changes), tmp_path, reporter=QuietReporter())
    finally:
        del POLICIES["growing"]
    lines = read(tmp_path / "metrics.jsonl")
    assert bool(guesses) == foreseeable
    assert (len(asked) > len(lines)) == foreseeable
    assert asked[0].keys() == {*MEASUREMENTS, "accuracy"}
    assert asked[0]["accuracy"] == lines[0]["validation_accuracy"]
    for name in ("train_loss", "train_accuracy", "validation_loss"):
        assert asked[0][name] == lines[0][name]
    assert asked[0]["seconds"] == lines[0]["elapsed"]
    assert 0 < asked[0]["latency"] < asked[0]["seconds"]


def test_replay_takes_the_seconds_of_metrics_lines_from_the_start_of_the_run():
    policy = growth.limited(growth.periodic(interval=1), growth.Limits(max_seconds=25))
    lines = [{"seconds": 10.0, "elapsed": 10.0 * epoch} for epoch in range(1, 9)]
    assert replay(policy, [50.0] * 8, measurements=lines).growth_epochs == 3


@pytest.mark.parametrize(
    "name, message",
    [
        (
            "latency",
            r"'curious' needs the measurement 'latency' at every update; give .*'train_loss'",
        ),
        ("train_acc", "'train_acc' at every update; did you mean 'train_accuracy'"),
    ],
)
def test_a_measurement_that_is_missing_is_named(name, message):
    def update(state, accuracy, *, measurements=None):
        return state, Decision("train" if measurements[name] else "finetune", (1,))

    policy = Policy(dict, update, (1,), "curious")
    with pytest.raises(UserError, match=message):
        replay(policy, [50.0], measurements=[{"train_loss": 1.0}])


def _noting(notes):
    def update(state, accuracy, *, measurements=None):
        return state, Decision("train", (1,), notes=notes)

    return Policy(dict, update, (1,))


@pytest.mark.parametrize("notes", [3, {"score": "high"}, {"score": None}, [("score", 1.0)]])
def test_notes_that_are_no_numbers_are_refused(notes):
    with pytest.raises(UserError, match=r"'custom': 'train'.*notes as numbers by name"):
        replay(_noting(notes), [50.0])


def test_notes_pass_limits_as_numbers_of_python():
    policy, timed = _noting({"score": np.float32(0.5), "count": 3}), [{"seconds": 1.0}] * 2
    assert replay(policy, [50.0]).notes == [{"score": 0.5, "count": 3.0}]
    for most in (5.0, 0.5):
        held = growth.limited(policy, growth.Limits(max_seconds=most))
        noted = replay(held, [50.0, 50.0], measurements=timed).notes
        assert noted[0] == {"score": 0.5, "count": 3.0}


def test_gap_notes_the_mean_gap_that_it_weighs():
    policy = growth.gap((1,), (9,), window=2, max_gap=4.0)
    ahead = [{"train_accuracy": 50.0 + gap} for gap in (1.0, 3.0, 7.0)]
    noted = replay(policy, [50.0] * 3, measurements=ahead).notes
    assert [notes["gap"] for notes in noted] == [1.0, 2.0, 5.0]
