"""Whole runs on a tenth of the digits: what they leave behind; stopping one changes nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from stand_ins import SignalAt, StopAt, pictures, tiny_config, untimed_lines

from autogrow_jax import config as config_lib
from autogrow_jax.build import load_data
from autogrow_jax.command_line import Terminated
from autogrow_jax.data import normalize
from autogrow_jax.errors import DivergedError, UserError
from autogrow_jax.models.convolution import why_not_native
from autogrow_jax.reporting import QuietReporter
from autogrow_jax.reporting.metrics import read
from autogrow_jax.reporting.result import RESULT_KEYS, format_result
from autogrow_jax.saving.checkpoint import CheckpointStore
from autogrow_jax.training import run
from autogrow_jax.training.amid import Amid


def _config(**changes):
    """Grows all stages every epoch, past the first capacity of 4, then fine-tunes two epochs."""
    own = {
        "growth.mode": "all",
        "growth.max_epochs": 5,
        "growth.max_depths": (5,),
        "finetune.epochs": 2,
        "finetune.perturb": 0.5,
        "optimizer.ema": 0.9,
        "log.tensorboard": True,
    }
    return tiny_config(**own | changes)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    with pictures():
        return workdir, run(_config(), workdir, reporter=QuietReporter())


def _saved(workdir):
    store = CheckpointStore(workdir / "checkpoints", 2)
    try:
        return store.read(store.latest()).arrays
    finally:
        store.close()


def _assert_equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_a_run_grows_stops_and_fine_tunes(undisturbed):
    workdir, result = undisturbed
    lines = read(workdir / "metrics.jsonl")
    assert [line["epoch"] for line in lines] == list(range(result.epochs))
    assert [line["phase"] for line in lines] == ["growth"] * 5 + ["finetune"] * 2
    assert [line["depths"][0] for line in lines] == [1, 2, 3, 4, 5, 5, 5]
    assert result.depths == (5, 5, 5)
    assert len(result.growth) == 12
    assert result.growth[0] == {"epoch": 1, "stage": 0, "depths": [2, 1, 1]}
    assert lines[-1]["learning_rate"] < lines[0]["learning_rate"]
    assert lines[-1]["train_loss"] < lines[0]["train_loss"]


def test_one_device_computes_with_the_packages_own_convolutions(undisturbed):
    """As a laptop does: this is what is stopped, killed and resumed below."""
    _, result = undisturbed
    wanted = "native" if jax.device_count() == 1 and not why_not_native() else "xla"
    assert result.more["devices"]["convolution"] == wanted


def test_one_executable_serves_all_depths_of_a_capacity(undisturbed):
    _, result = undisturbed
    # Capacities 4 and 8; five depths.
    assert result.compilations == 2
    assert result.more["compilations_by_program"] == {
        "init": 2,  # Weights are perturbed at the second.
        "train": 2,
        "evaluate": 2,
        "growth": 2,
    }


def test_result_file_holds_the_contract(undisturbed):
    workdir, result = undisturbed
    content = json.loads((workdir / "result.json").read_text())
    assert set(RESULT_KEYS) <= content.keys()
    parts = ("start", "build", "train", "evaluate", "compile", "growth", "checkpoint")
    assert set(content["seconds"]) == {"total", "compile_ahead", *parts}
    # Called from Python, the process is older than the run.
    assert content["seconds"]["start"] < 5
    assert sum(content["seconds"][part] for part in parts) <= content["seconds"]["total"]
    assert content["validation"] == "held-out"
    text = format_result(content)
    assert f"% at best, on {content['validation_examples']} held-out images\n" in text
    assert (workdir / "plots" / "growth.png").stat().st_size > 10_000
    best = max(line["validation_accuracy"] for line in read(workdir / "metrics.jsonl"))
    assert content["best_validation_accuracy"] == best == result.best_validation_accuracy


def test_returned_network_has_the_reported_accuracy(undisturbed):
    """The public, exact-depth network computes what the padded one was trained as."""
    _, result = undisturbed
    dataset = load_data(config_lib.resolve(_config()))
    images = normalize(dataset.test.images, dataset.preprocessing)
    # In NumPy, as a mean of JAX's is of 32 bits.
    logits = np.asarray(jax.jit(result.network.apply)(result.variables, images))
    correct = np.argmax(logits, -1) == dataset.test.labels
    assert 100 * correct.mean() == pytest.approx(result.test_accuracy, abs=1e-6)


def test_checkpoints_are_bounded(undisturbed):
    workdir, result = undisturbed
    store = CheckpointStore(workdir / "checkpoints", 2)
    steps = store.all_epochs()
    best = store.best()
    store.close()
    assert steps[-2:] == [result.epochs - 1, result.epochs]
    assert set(steps[:-2]) <= {best}


@pytest.mark.parametrize("epoch", [2, 4], ids=["within-a-capacity", "as-the-capacity-doubles"])
def test_stopped_and_started_again_is_as_if_never_stopped(undisturbed, tmp_path, epoch):
    workdir, result = undisturbed
    # Each start of the command line begins with its process; here a day before.
    day = 86_400
    with pytest.raises(KeyboardInterrupt):
        run(_config(), tmp_path, reporter=StopAt(epoch), started=time.perf_counter() - day)
    again = StopAt(None)
    resumed = run(_config(), tmp_path, reporter=again, started=time.perf_counter() - day)
    assert again.resumed_after == epoch
    elapsed = [line["elapsed"] for line in read(tmp_path / "metrics.jsonl")]
    assert day < elapsed[0] < 1.5 * day < 2 * day < elapsed[-1] < resumed.seconds["total"]
    assert 2 * day < resumed.seconds["start"] < resumed.seconds["total"] < 2.5 * day
    assert untimed_lines(tmp_path) == untimed_lines(workdir)
    _assert_equal(_saved(tmp_path), _saved(workdir))
    assert resumed.growth == result.growth
    assert resumed.test_accuracy == result.test_accuracy


STOPPED = {"log.progress": True, "checkpoint.every": 3, "snapshots.every": 1}


def test_a_run_that_is_signalled_amid_epochs_saves_and_ends_as_if_it_had_not_been(
    undisturbed, tmp_path, monkeypatch
):
    """In growth and in fine-tuning's first epoch, whose weights are not perturbed twice."""
    workdir, result = undisturbed
    monkeypatch.setattr("autogrow_jax.steps.feed.SECONDS_PER_DISPATCH", 1e-9)  # Of a step each.
    before = signal.getsignal(signal.SIGTERM)
    first, begun_with = tmp_path / "snapshots" / "epoch_000000.npz", []
    for epoch, steps in ((0, 1), (2, 2), (5, 1)):
        with pytest.raises(Terminated):
            run(_config(**STOPPED), tmp_path, reporter=(stopped := SignalAt(epoch, steps)))
        # Steps that are under way may be saved, too.
        after = tuple(f"after {done} of 3 steps" for done in range(steps, 4))
        assert stopped.told[-1].startswith(f"saved in epoch {epoch}, after ")
        assert stopped.told[-1].endswith(after)
        assert len(read(tmp_path / "metrics.jsonl")) == epoch
        begun_with.append(first.read_bytes())
    assert len({*begun_with}) == 1
    assert signal.getsignal(signal.SIGTERM) is before
    resumed = run(_config(**STOPPED), tmp_path, reporter=(last := SignalAt()))
    assert stopped.told[-1].replace("saved", "goes on") in last.told
    assert (5, 1) not in last.seen
    assert untimed_lines(tmp_path) == untimed_lines(workdir)
    _assert_equal(_saved(tmp_path), _saved(workdir))
    assert resumed.growth == result.growth
    assert resumed.test_accuracy == result.test_accuracy
    assert not (tmp_path / "amid_epoch.npz").exists()
    seconds = [line["seconds"] for line in read(tmp_path / "metrics.jsonl")]
    assert sum(seconds) < resumed.seconds["total"]


def test_where_all_checkpoints_are_damaged_what_was_saved_amid_an_epoch_is_gone_on_from(
    undisturbed, tmp_path, monkeypatch
):
    monkeypatch.setattr("autogrow_jax.steps.feed.SECONDS_PER_DISPATCH", 1e-9)
    config = _config(**{"log.progress": True, "snapshots.every": 1})
    with pytest.raises(Terminated):
        run(config, tmp_path, reporter=SignalAt(2, 1))
    checkpoints = tmp_path / "checkpoints"
    # One of a later epoch, as on its way to the disk when the power failed.
    shutil.copytree(checkpoints / "epoch_2", checkpoints / "epoch_3")
    for folder in checkpoints.glob("epoch_*"):
        (folder / "memory" / "metadata").write_bytes(b"{")
    run(config, tmp_path, reporter=(told := SignalAt()))
    said = [text for text in told.told if "is damaged" in text]
    assert said and {text.partition(", and ")[2] for text in said} == {
        f"the run goes on from {tmp_path / 'amid_epoch.npz'}"
    }
    assert untimed_lines(tmp_path) == untimed_lines(undisturbed[0])
    _assert_equal(_saved(tmp_path), _saved(undisturbed[0]))


def test_a_checkpoint_that_is_there_already_is_not_left_as_it_is_in_silence(tmp_path):
    """Orbax takes one of an epoch that is not later for done."""
    with closing(CheckpointStore(tmp_path, 2)) as store:
        store.save(3, {"w": np.zeros(3)}, {}, 50.0)
        store.wait()
        with pytest.raises(RuntimeError, match="epoch_3 was there before"):
            store.save(3, {"w": np.ones(3)}, {}, 50.0)


def test_what_was_saved_amid_an_epoch_stays_until_a_later_checkpoint_is_whole(tmp_path):
    """The newest may still be on its way to the disk when the next epoch begins."""
    path, state = tmp_path / "amid_epoch.npz", SimpleNamespace(epoch=5)
    settings = SimpleNamespace(checkpoint=SimpleNamespace(minutes=0))
    trainer = SimpleNamespace(settings=settings, programs=SimpleNamespace())
    amid = Amid(path, trainer, state, None, None, print)
    path.touch()
    amid._kept = 8
    for epoch, stays in ((10, True), (15, False)):
        state.epoch = epoch
        amid.checkpointed()
        assert path.exists() == stays


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_from_where_it_was_some_minutes_ago(
    undisturbed, tmp_path, monkeypatch
):
    monkeypatch.setattr("autogrow_jax.steps.feed.SECONDS_PER_DISPATCH", 1e-9)
    config = _config(**STOPPED, **{"checkpoint.minutes": 1e-9})

    class Killed(SignalAt):
        def epoch_progress(self, epoch, steps_done, steps_total, images_per_second=None):
            if epoch == 1 and steps_done >= 2:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(config, tmp_path, reporter=Killed())
    kept = (tmp_path / "amid_epoch.npz").read_bytes()
    with pytest.raises(Terminated):
        run(config, tmp_path, reporter=(again := SignalAt(2, 1)))
    assert any(text.startswith("goes on in epoch 1, after ") for text in again.told)
    assert again.told[-1].startswith("saved in epoch 2")
    # Cut off: back to the last checkpoint.
    (tmp_path / "amid_epoch.npz").write_bytes(kept[:-9])
    with pytest.raises(Terminated):
        run(config, tmp_path, reporter=(again := SignalAt(2, 1)))
    assert any("amid_epoch.npz is damaged" in text for text in again.told)
    with pytest.raises(KeyboardInterrupt):
        run(_config(), tmp_path, reporter=StopAt(2))
    assert untimed_lines(tmp_path) == untimed_lines(undisturbed[0])[:3]


def test_finished_run_returns_its_result_and_trains_nothing(undisturbed):
    workdir, result = undisturbed
    before = (workdir / "metrics.jsonl").read_bytes()
    again = run(_config(), workdir, reporter=QuietReporter())
    assert again.to_dict() == json.loads((workdir / "result.json").read_text()) | {
        "depths": result.depths,
        "seed_depths": result.seed_depths,
        "growth": result.growth,
    }
    assert (workdir / "metrics.jsonl").read_bytes() == before
    jax.tree.map(np.testing.assert_array_equal, again.variables, result.variables)


def test_other_config_is_refused_with_the_keys_that_differ(undisturbed):
    workdir, _ = undisturbed
    with pytest.raises(UserError, match=r"growth\.interval: 1 -> 2") as error:
        run(_config(**{"growth.interval": 2, "log.plot_every": 5}), workdir)
    assert "log" not in str(error.value)


def test_evaluate_mode_gives_the_same_numbers(undisturbed):
    workdir, result = undisturbed
    evaluated = run(_config(mode="evaluate"), workdir, reporter=QuietReporter())
    assert evaluated.test_accuracy == result.test_accuracy
    assert evaluated.depths == result.depths


def test_from_scratch_trains_the_given_depths(tmp_path):
    config = _config(mode="scratch", **{"model.depths": (2, 1, 1)})
    result = run(config, tmp_path, reporter=QuietReporter())
    lines = read(tmp_path / "metrics.jsonl")
    assert [line["phase"] for line in lines] == ["scratch"] * 2
    assert result.depths == (2, 1, 1)
    assert not result.growth


def test_diverging_names_epoch_and_step_and_keeps_the_last_checkpoint(tmp_path):
    config = _config(
        mode="scratch",
        **{"model.family": "plain3_nobn", "optimizer.learning_rate": 1e20, "optimizer.ema": 0.0,
           "finetune.epochs": 20, "finetune.schedule": "constant"},
    )  # fmt: skip
    with pytest.raises(DivergedError, match=r"epoch \d+, step \d+") as error:
        run(config, tmp_path, reporter=QuietReporter())
    epochs = len(read(tmp_path / "metrics.jsonl"))
    assert f"epoch {epochs}," in str(error.value)
    if epochs:
        for array in _saved(tmp_path).values():
            assert np.isfinite(array).all()


@pytest.mark.multiprocess
@pytest.mark.slow
def test_kill_9_in_the_growth_phase(undisturbed, tmp_path):
    workdir, _ = undisturbed
    flags = [
        f"--config.{k}={v}"
        for k, v in {
            "data.fraction": 0.1, "data.batch_size": 32, "num_devices": 1, "growth.interval": 1,
            "growth.mode": "all", "growth.max_epochs": 5, "growth.max_depths": 5,
            "finetune.epochs": 2, "finetune.front": False, "finetune.perturb": 0.5,
            "optimizer.ema": 0.9,
            "log.progress": False, "growth.window": 100, "data.name": "digits",
        }.items()
    ]  # fmt: skip
    command = [sys.executable, "-m", "autogrow_jax.main", f"--workdir={tmp_path}", *flags]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if (tmp_path / "metrics.jsonl").exists() and len(_safe_lines(tmp_path)) >= 3:
            break
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "result.json").exists()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert untimed_lines(tmp_path) == untimed_lines(workdir)
    _assert_equal(_saved(tmp_path), _saved(workdir))


def _safe_lines(workdir):
    return (workdir / "metrics.jsonl").read_text().splitlines()
