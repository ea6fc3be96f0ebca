"""Trackers of experiments, by stand-ins of their packages: told of a run, resumed, failing."""

import inspect
import json
import sys
import types

import pytest
from stand_ins import Told

from autogrow_jax.errors import UserError
from autogrow_jax.reporting import EpochStart, Reporter, Workdir, track

CONFIG = {"growth.interval": 3, "model.depths": (1, 1, 1), "log.tracker": "wandb"}
RESULT = {
    "depths": [2, 1, 1],
    "growth": [{"epoch": 1, "stage": 0, "depths": [2, 1, 1]}],
    "test_accuracy": 97.5,
    "num_params": 12,
    "epochs": 2,
}


class Calls(list):
    """Notes calls of a stand-in; those in `broken` fail."""

    broken = ()

    def __call__(self, name, /, *given, **more):
        self.append((name, *given, more) if more else (name, *given))
        if name in self.broken:
            raise RuntimeError("no\nnetwork")


@pytest.fixture
def calls(monkeypatch):
    """The calls of stand-ins of the three packages."""
    calls = Calls()

    def module(name, **functions):
        made = types.ModuleType(name)
        for key, function in functions.items():
            setattr(made, key, function)
        monkeypatch.setitem(sys.modules, name, made)

    def note(name):
        return lambda *given, **more: calls(name, *given, **more)

    def init(**given):
        calls("init", **given)
        summary = types.SimpleNamespace(update=note("summary"))
        return types.SimpleNamespace(log=note("log"), finish=note("finish"), summary=summary)

    def start_run(**given):
        calls("start_run", **given)
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id="mlflows own"))

    names = ("log_params", "log_metrics", "set_tags", "end_run")
    module("wandb", init=init)
    module("trackio", init=init)
    module("mlflow", start_run=start_run, **{name: note(name) for name in names})
    return calls


def line(epoch, depths, **more):
    return {"epoch": epoch, "depths": depths, "validation_accuracy": 90.0 + epoch, **more}


def tell(reporter, previous=(), end=True):
    """A run of two epochs that grows between them, or its second one."""
    reporter.begin_run("a run", previous=previous)
    if not previous:
        reporter.end_epoch(line(0, [1, 1, 1]))
        reporter.growth((1, 1, 1), (2, 1, 1), "gaussian")
    if end:
        reporter.end_epoch(line(1, [2, 1, 1], validation_loss=None, notes={"gain": 0.5}))
        reporter.end_run(RESULT)
    reporter.close()


SCALARS = {
    "accuracy/validation": 91.0,
    **{"depth/stage_0": 2.0, "depth/stage_1": 1.0, "depth/stage_2": 1.0, "depth/total": 4.0},
    "notes/gain": 0.5,
}


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_run_is_told_growth_as_a_point_before_its_epoch(calls, tmp_path, monkeypatch, name):
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    workdir = Workdir(tmp_path / "mine")
    tell(track(Told(), name, workdir, CONFIG))
    assert [call[0] for call in calls[:4]] == ["init", "log", "log", "log"]
    (begun,) = calls[0][1:]
    assert begun["project"] == "autogrow_jax"
    assert begun["resume"] == "allow"
    assert begun["name"].startswith("mine")
    assert begun["config"] == CONFIG | {"model.depths": "[1, 1, 1]"}
    assert calls[1][2] == {"step": 0}
    assert calls[2] == ("log", {"growth/stage_0": 2.0}, {"step": 1})
    assert calls[3] == ("log", SCALARS, {"step": 1})
    ends = {"test_accuracy": 97.5, "num_params": 12.0, "epochs": 2.0, "depths": "2-1-1"}
    assert calls[4][1] == ends | {"growth": "epoch 1: 2-1-1"}
    assert calls[5][0] == "finish"
    assert len(calls) == 6


def test_mlflow_is_told_the_same_in_its_own_words(calls, tmp_path):
    many = CONFIG | {f"growth.own.mine.k{i}": i for i in range(150)}
    tell(track(Told(), "mlflow", Workdir(tmp_path), many))
    names = [call[0] for call in calls]
    assert names[:3] == ["start_run", "log_params", "log_params"]
    assert {**calls[1][1], **calls[2][1]} == many | {"model.depths": "[1, 1, 1]"}
    assert ("log_metrics", {"growth/stage_0": 2.0}, {"step": 1}) in calls
    assert ("log_metrics", SCALARS, {"step": 1}) in calls
    assert calls[-2][1] == {"depths": "2-1-1", "growth": "epoch 1: 2-1-1"}
    assert calls[-1] == ("end_run", "FINISHED")


@pytest.mark.parametrize("name, key", [("wandb", "id"), ("trackio", "name"), ("mlflow", "run_id")])
def test_a_resumed_run_goes_on_with_the_tracked_one(calls, tmp_path, name, key):
    workdir = Workdir(tmp_path)
    tell(track(Told(), name, workdir, CONFIG), end=False)
    stopped = calls[-1]
    assert stopped in (("finish", {"exit_code": 1}), ("finish",), ("end_run", "KILLED"))
    known = json.loads(workdir.tracker.read_text())[name]
    del calls[:]
    tell(track(Told(), name, workdir, CONFIG), previous=[line(0, [1, 1, 1])])
    assert calls[0][1][key] == known
    assert "log_params" not in [call[0] for call in calls]
    # A run that begins anew in the folder is another one.
    del calls[:]
    tell(track(Told(), name, workdir, CONFIG))
    assert calls[0][1].get(key) != known


@pytest.mark.parametrize("broken", ["init", "log", "finish"])
def test_a_tracker_that_fails_is_told_no_more_and_stops_nothing(calls, tmp_path, broken):
    inner, calls.broken = Told(), (broken,)
    tell(track(inner, "wandb", Workdir(tmp_path), CONFIG))
    assert inner.messages == ["wandb failed (RuntimeError: no network); the run goes on without it"]
    assert calls[-1][0] == broken


def test_a_run_that_goes_back_within_a_process_stays_the_tracked_one(calls, tmp_path):
    reporter = track(Told(), "wandb", Workdir(tmp_path), CONFIG)
    reporter.begin_run("a run")
    tell(reporter)
    assert [call[0] for call in calls].count("init") == 1


def test_a_package_that_is_missing_is_named_before_training(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    message = (
        r"config.log.tracker is 'trackio', but it cannot.*pip install 'autogrow_jax\[trackio\]'"
    )
    with pytest.raises(UserError, match=message):
        track(Told(), "trackio", Workdir(tmp_path), CONFIG)
    inner = Told()
    assert track(inner, "", Workdir(tmp_path), CONFIG) is inner


def test_the_other_reporter_is_told_all(calls, tmp_path):
    given = {
        "begin_run": ("title",),
        "begin_epoch": (EpochStart(0, "growth", (1, 1, 1), 4),),
        "epoch_progress": (0, 1, 4),
        "end_epoch": (line(0, [1, 1, 1]),),
        "growth": ((1, 1, 1), (2, 1, 1), "gaussian"),
        "message": ("hello",),
        "end_run": (None,),
        "close": (),
    }
    public = [name for name, _ in inspect.getmembers(Reporter, inspect.isfunction)]
    assert {name for name in public if not name.startswith("_")} == set(given)
    told = []
    noting = {name: (lambda self, *g, n=name, **m: told.append(n)) for name in given}
    reporter = track(type("Noting", (Reporter,), noting)(), "wandb", Workdir(tmp_path), CONFIG)
    for name, arguments in given.items():
        getattr(reporter, name)(*arguments)
    assert told == list(given)
