"""Trials in training: the same start for all, the weights of the one that is kept, resume."""

import io
import json
import signal
import time
from typing import Any

import jax
import numpy as np
import pytest
from stand_ins import SignalAt, StopAt, tiny_config, untimed_lines

from autogrow_jax import config as config_lib
from autogrow_jax.build import load_data, make_schedule
from autogrow_jax.command_line import Terminated
from autogrow_jax.growth import Decision, Policy
from autogrow_jax.reporting import ConsoleReporter, QuietReporter
from autogrow_jax.reporting.metrics import find_kept, growth_events, kept_depths, read
from autogrow_jax.reporting.plots import figure
from autogrow_jax.reporting.result import format_result
from autogrow_jax.saving.checkpoint import CheckpointStore
from autogrow_jax.steps.trainer import Trainer
from autogrow_jax.training import run
from autogrow_jax.training.epoch import run_epoch
from autogrow_jax.training.growing import Grower
from autogrow_jax.training.run_state import Clock, RunState


def _config(**changes):
    """Two rounds of three trials; the second needs more room than the first capacity of 2."""
    own = {
        "data.batch_size": 64,
        "growth.policy": "lookahead",
        "growth.interval": 2,
        "growth.max_epochs": 10,
        "growth.capacity": 2,
        "finetune.epochs": 1,
        "optimizer.ema": 0.9,
    }
    return tiny_config(**own | changes)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    return workdir, run(_config(), workdir, reporter=QuietReporter())


def _saved(workdir):
    """Epochs that are kept, the best of them, and the newest arrays."""
    store = CheckpointStore(workdir / "checkpoints", 2)
    try:
        return store.all_epochs(), store.best(), store.read(store.latest()).arrays
    finally:
        store.close()


def test_a_run_tries_each_open_stage_and_keeps_the_best(undisturbed):
    workdir, result = undisturbed
    lines = read(workdir / "metrics.jsonl")
    assert [line["epoch"] for line in lines] == list(range(11))
    assert [line["phase"] for line in lines] == ["growth"] * 10 + ["finetune"]
    rounds = [lines[2:5], lines[6:9]]
    assert [line["epoch"] for line in lines if "trial" in line] == [2, 3, 4, 6, 7, 8]
    assert [line["epoch"] for line in lines if "kept" in line] == [5, 9]
    for trials, growth in zip(rounds, result.growth, strict=True):
        assert sorted(line["trial"] for line in trials) == [0, 1, 2]
        best = max(trials, key=lambda line: line["validation_accuracy"])  # the first of equals
        assert growth["stage"] == best["trial"]
        assert lines[growth["epoch"]]["kept"] == [best["trial"]]
        assert growth["epoch"] == trials[-1]["epoch"] + 1
        assert growth["depths"] == best["depths"] == lines[growth["epoch"]]["depths"]
    assert growth_events(lines) == list(result.growth)
    assert result.depths == tuple(result.growth[-1]["depths"])
    assert sum(result.depths) == 5
    content = json.loads((workdir / "result.json").read_text())
    assert (content["epochs"], content["trial_epochs"], content["growth_epochs"]) == (11, 6, 10)


def test_only_nets_that_were_kept_are_saved_and_count_as_the_best(undisturbed):
    workdir, result = undisturbed
    lines = read(workdir / "metrics.jsonl")
    pairs = zip(lines, find_kept(lines), strict=True)
    best = max(line["validation_accuracy"] for line, kept in pairs if kept)
    assert result.best_validation_accuracy == best
    saved, best_epoch, _ = _saved(workdir)
    assert saved[-2:] == [10, 11]
    assert set(saved) <= {1, 2, 5, 6, 9, 10, 11}
    assert best_epoch in saved


def test_trials_compile_no_more_than_their_capacities_need(undisturbed):
    # Capacities (2, 2, 2), and once one stage has three blocks: that stage's is 4.
    counts = undisturbed[1].more["compilations_by_program"]
    assert counts == {"init": 1, "train": 2, "evaluate": 2, "growth": 2}


def test_stopped_within_a_round_and_started_again_is_as_if_never_stopped(undisturbed, tmp_path):
    workdir, result = undisturbed
    with pytest.raises(KeyboardInterrupt):
        run(_config(), tmp_path, reporter=StopAt(7))
    assert len(untimed_lines(tmp_path)) == 8
    again = StopAt(None)
    resumed = run(_config(), tmp_path, reporter=again)
    assert again.resumed_after == 6
    assert untimed_lines(tmp_path) == untimed_lines(workdir)
    (epochs, best, arrays), (_, _, expected) = _saved(tmp_path), _saved(workdir)
    assert (epochs, best) == _saved(workdir)[:2]
    assert arrays.keys() == expected.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
    assert resumed.growth == result.growth
    assert resumed.test_accuracy == result.test_accuracy
    assert resumed.more["trial_epochs"] == result.more["trial_epochs"]


@pytest.mark.slow
def test_signalled_amid_a_trial_it_goes_on_amid_that_trial(undisturbed, tmp_path):
    """The second of a round, and the last of one that needs more room."""
    workdir, result = undisturbed

    class Signalled(SignalAt):
        def begin_epoch(self, start):
            if start.epoch == self.at[0]:
                signal.raise_signal(signal.SIGTERM)

    for epoch in (3, 8):
        with pytest.raises(Terminated):
            run(_config(), tmp_path, reporter=(stopped := Signalled(epoch)))
        assert stopped.told[-1] == f"saved in epoch {epoch}, after 1 of 1 steps"
        assert [line["epoch"] for line in read(tmp_path / "metrics.jsonl")] == [*range(epoch)]
    resumed = run(_config(), tmp_path, reporter=(last := SignalAt()))
    assert "goes on in epoch 8, after 1 of 1 steps" in last.told
    assert untimed_lines(tmp_path) == untimed_lines(workdir)
    for name, array in _saved(tmp_path)[2].items():
        np.testing.assert_array_equal(array, _saved(workdir)[2][name], err_msg=name)
    assert (resumed.growth, resumed.test_accuracy) == (result.growth, result.test_accuracy)


def test_stopped_between_a_round_and_the_next_line_it_still_says_what_was_kept(
    undisturbed, tmp_path, monkeypatch
):
    workdir, result = undisturbed
    train_epoch = Trainer.train_epoch

    def stop_after_the_round(self, epoch, *rest):
        if epoch == 5:
            raise KeyboardInterrupt
        return train_epoch(self, epoch, *rest)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Trainer, "train_epoch", stop_after_the_round)
        run(_config(), tmp_path, reporter=QuietReporter())
    lines = read(tmp_path / "metrics.jsonl")
    assert [line["epoch"] for line in lines if "trial" in line] == [2, 3, 4]
    assert len(lines) == 5 and find_kept(lines) == [True, True, False, False, False]
    again = StopAt(5)
    with pytest.raises(KeyboardInterrupt):
        run(_config(), tmp_path, reporter=again)
    assert again.resumed_after == 5
    assert untimed_lines(tmp_path) == untimed_lines(workdir)[:6]
    assert untimed_lines(tmp_path)[-1]["kept"] == [result.growth[0]["stage"]]
    assert sum(find_kept(read(tmp_path / "metrics.jsonl"))[2:5]) == 1


# One round, step by step, under a policy that decides what it is told to.


class _Round:
    """A net trained for an epoch, then a round of trials as `decisions` say."""

    def __init__(self, trainer, decisions):
        self.trainer, self.measurements = trainer, []
        trainer.start()
        self.state = RunState(0, "growth", 0, (1, 1, 1), {})
        remaining = iter(decisions)

        def update(state, accuracy, *, measurements=None):
            self.measurements.append(measurements)
            return state, next(remaining)

        policy = Policy(dict, update, (1, 1, 1))
        schedule = make_schedule(trainer.settings, policy)
        self._grower = Grower(trainer, self.state, policy, schedule, QuietReporter())
        self._clock = Clock(self.state, trainer, time.perf_counter())
        self.epoch()
        self.base = _arrays(trainer)

    def epoch(self):
        draws_of = self._grower.prepare()
        course = self.trainer, self.state, self._clock, QuietReporter()
        line, measurements = run_epoch(*course, 0.01, draws_of)
        self.tried = _arrays(self.trainer)
        self._grower.follow(self._grower.decide(line, measurements), line)
        return line

    @property
    def in_trials(self):
        return self._grower.in_trials


def _arrays(trainer):
    return jax.tree.map(np.array, trainer.exact_state())


def _trial(stage, best=None):
    return Decision("trial", tuple(1 + (i == stage) for i in range(3)), (stage,), best)


def _assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def trainer():
    config: Any = config_lib.resolve(_config())
    trainer: Any = Trainer(config, load_data(config))
    return trainer


def _reset(trainer):
    trainer.depths = (1, 1, 1)
    return trainer


def test_the_net_that_is_kept_has_the_weights_of_its_trial(trainer):
    decisions = [_trial(0), _trial(1, best=0), _trial(2, best=1), Decision("grow", (1, 2, 1), (1,))]
    course = _Round(_reset(trainer), decisions)
    assert (course.state.trial, course.in_trials) == (0, False)
    course.epoch()
    assert course.in_trials
    line, weights = course.epoch(), course.tried
    assert trainer.depths == (1, 2, 1)
    course.epoch()
    assert (trainer.depths, course.in_trials, course.state.trial) == ((1, 2, 1), False, None)
    _assert_same(_arrays(trainer), weights)
    state = course.state
    assert (state.epoch, state.trial_epochs, trainer.depths) == (4, 3, (1, 2, 1))
    assert state.evaluated_depths == (1, 2, 1)
    assert state.validation_accuracy == line["validation_accuracy"]
    assert state.train_accuracy == line["train_accuracy"]
    # It is what plain growth would have trained in the round's first epoch.
    plain = [Decision("grow", (1, 2, 1), (1,)), Decision("train", (1, 2, 1))]
    _Round(_reset(trainer), plain).epoch()
    _assert_same(_arrays(trainer), weights)


def test_the_last_net_tried_is_kept_where_it_is(trainer):
    course = _Round(
        _reset(trainer), [_trial(0), _trial(2, best=0), Decision("finetune", (1, 1, 2), (2,))]
    )
    course.epoch()
    line = course.epoch()
    _assert_same(_arrays(trainer), course.tried)
    assert (line["trial"], line["phase"], course.state.phase) == (2, "growth", "finetune")
    assert course.state.growth == [{"epoch": 3, "stage": 2, "depths": [1, 1, 2]}]


def test_a_round_of_which_nothing_is_kept_leaves_the_net_as_it_was(trainer):
    course = _Round(_reset(trainer), [_trial(0), _trial(1), Decision("train", (1, 1, 1))])
    before = dict(vars(course.state), depths=trainer.depths)
    course.epoch()
    course.epoch()
    assert course.state.kept == []
    _assert_same(_arrays(trainer), course.base)
    after = dict(vars(course.state), depths=trainer.depths)
    same = ("depths", "evaluated_depths", "train_accuracy", "validation_accuracy", "growth")
    assert {name: after[name] for name in same} == {name: before[name] for name in same}


def test_a_trial_that_was_dropped_cannot_be_kept(trainer):
    decisions = [_trial(0), _trial(1, best=None), Decision("grow", (2, 1, 1), (0,))]
    course = _Round(_reset(trainer), decisions)
    course.epoch()
    with pytest.raises(ValueError, match=r"stage 0, .*Decision\.best"):
        course.epoch()


def test_the_policy_is_told_what_the_epoch_measured(trainer):
    course = _Round(_reset(trainer), [Decision("train", (1, 1, 1))])
    (given,) = course.measurements
    assert set(given) == {"train_accuracy", "train_loss", "validation_loss", "seconds", "latency"}
    assert given["train_accuracy"] == course.state.train_accuracy
    assert given["seconds"] == course.state.seconds["total"] > 0
    assert 0 < given["latency"] < given["seconds"]


# What is reported: two epochs of 1-1, trials of both stages, the second is kept and goes on.


def _line(epoch, depths, accuracy, **more):
    return {"epoch": epoch, "phase": "growth", "depths": depths, "seconds": 1.0,
            "train_loss": 1.0, "train_accuracy": 50.0, "validation_loss": 1.0,
            "validation_accuracy": accuracy, "learning_rate": 0.1, **more}  # fmt: skip


_ROUND = [
    _line(0, [1, 1], 40.0),
    _line(1, [1, 1], 50.0),
    _line(2, [2, 1], 47.0, trial=0),
    _line(3, [1, 2], 61.0, trial=1),
    _line(4, [1, 2], 60.0),
]


def test_trials_are_no_growth_and_those_dropped_are_told_from_the_one_kept():
    assert find_kept(_ROUND) == [True, True, False, True, True]
    assert kept_depths(_ROUND) == [[1, 1]] * 4 + [[1, 2]]
    assert growth_events(_ROUND) == [{"epoch": 4, "stage": 1, "depths": [1, 2]}]
    # The line after a round says what was kept; lines of runs older than that, by their depths.
    said = [*_ROUND[:4], {**_ROUND[4], "kept": [1]}]
    assert find_kept(said) == find_kept(_ROUND)
    dropped = [*_ROUND[:4], _line(4, [1, 1], 60.0, kept=[])]
    assert find_kept(dropped) == [True, True, False, False, True]
    assert growth_events(dropped) == []
    # Within a round nothing is kept yet, and nothing has grown.
    assert find_kept(_ROUND[:4]) == [True, True, False, False]
    assert growth_events(_ROUND[:4]) == []


def test_the_terminal_names_trials_and_counts_the_one_kept_as_the_best():
    stream = io.StringIO()
    reporter = ConsoleReporter(stdout=stream, show_bar=False)
    reporter.begin_run("a run", previous=_ROUND[:3])
    for line in _ROUND[3:]:
        reporter.end_epoch(line)
    lines = stream.getvalue().splitlines()[1:]
    resumed, trial, after = (line for line in lines if "phase" not in line)
    assert resumed.endswith("depths 1-1")
    assert trial.split()[:6] == ["3", "trial", "1", "1-2", "1.0000", "50.00"]
    assert trial.split()[7] == "50.00"
    assert after.split()[6] == "61.00"
    text = format_result({"epochs": 11, "trial_epochs": 6})
    assert "11 (6 on trial)" in text
    assert "trial" not in format_result({"epochs": 11, "trial_epochs": 0})


def test_the_picture_draws_trials_beside_the_curve():
    drawing = figure(_ROUND)
    accuracy, depth = drawing.axes[0], drawing.axes[4]
    curves = {line.get_label(): line for line in accuracy.get_lines()}
    tried = curves.pop("tried, not kept: 1")
    assert list(tried.get_xydata()[0]) == [3.0, 47.0]
    validation = next(line for name, line in curves.items() if "best 61.00" in str(name))
    assert list(validation.get_xdata()) == [1.0, 2.0, 4.0, 5.0]
    assert list(depth.get_lines()[0].get_ydata()) == [1] * 10
    assert list(depth.get_lines()[1].get_ydata()) == [1] * 8 + [2] * 2
    assert "1-1 grown once to 1-2, 5 epochs (2 on trial)" in accuracy.get_title(loc="left")
