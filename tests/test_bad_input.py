"""Bad input to `run`: one readable error, before anything is compiled, and nothing spoilt by it."""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from stand_ins import Told

from autogrow_jax.config import default_config
from autogrow_jax.errors import DivergedError, UserError
from autogrow_jax.reporting import QuietReporter, Workdir
from autogrow_jax.reporting.metrics import read
from autogrow_jax.reporting.workdir import hold
from autogrow_jax.saving.checkpoint import CheckpointStore
from autogrow_jax.steps.trainer import Trainer
from autogrow_jax.training import run


def _config(**changes):
    config = default_config()
    config.mode = "scratch"
    config.num_devices = 1
    config.data.fraction = 0.12
    config.data.batch_size = 128  # One step an epoch.
    config.finetune.epochs = 8
    config.finetune.schedule = "constant"
    config.log.progress = False
    config.log.tensorboard = False
    config.update_from_flattened_dict(changes)
    return config


def _fail(config, workdir):
    """The message `run` fails with."""
    with pytest.raises(UserError) as error:
        run(config, workdir, reporter=QuietReporter())
    return str(error.value)


@pytest.fixture
def no_training(monkeypatch):
    """Whoever comes so far as to make a state has not been stopped in time."""

    def refuse(*args):
        raise AssertionError("a network was made")

    monkeypatch.setattr(Trainer, "start", refuse)
    monkeypatch.setattr(Trainer, "restore", refuse)


# --- Settings.


@pytest.mark.parametrize(
    "changes, parts",
    [
        (
            {"data.batch_size": 1000},
            ["config.data.batch_size is 1000", "but digits has", "training images"],
        ),
        pytest.param(
            {"num_devices": 3},
            ["batch_size is 128", "3 devices", "config.num_devices=2"],
            marks=pytest.mark.devices(4),
        ),
        pytest.param(
            {"num_devices": 64},
            ["config.num_devices is 64", "JAX sees 4 cpu"],
            marks=pytest.mark.devices(4),
        ),
        ({"data.name": "mnits"}, ["'mnits'", "did you mean 'mnist'"]),
        ({"data.crop_padding": 8}, ["crop_padding is 8", "8x8"]),
        ({"data.image_size": 4}, ["8x8", "image size 4"]),
    ],
)
def test_settings_that_do_not_fit_the_data_or_the_machine(tmp_path, no_training, changes, parts):
    message = _fail(_config(**changes), tmp_path)
    for part in parts:
        assert part in message


# --- Data.

IMAGES = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), np.uint8)
LABELS = np.arange(60) % 3

DAMAGED = [
    ("gap", {"x_train": IMAGES, "y_train": LABELS * 2}, "no training image: 1 (1), 3 (3)"),
    ("negative", {"x_train": IMAGES, "y_train": LABELS - 1}, "labels run from -1 to 1"),
    ("flat", {"x_train": IMAGES.reshape(60, 64), "y_train": LABELS}, "expected [N, H, W]"),
    ("counts", {"x_train": IMAGES, "y_train": LABELS[1:]}, "60 images but 59 labels"),
    ("names", {"images": IMAGES, "labels": LABELS}, "no x_train and y_train"),
    ("range", {"x_train": IMAGES / 1.0, "y_train": LABELS}, "expected [0, 1]"),
    (
        "parts",
        {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES[:, 2:], "y_test": LABELS},
        "test images are [6, 8, 1] but train images [8, 8, 1]",
    ),
]


@pytest.mark.parametrize("name, arrays, part", DAMAGED, ids=[case[0] for case in DAMAGED])
def test_damaged_arrays_name_the_file(tmp_path, no_training, name, arrays, part):
    path = tmp_path / f"{name}.npz"
    np.savez(path, **arrays)
    message = _fail(_config(**{"data.name": str(path)}), tmp_path / "run")
    assert part in message
    assert str(path) in message


def test_missing_data_names_what_was_looked_for(tmp_path, no_training):
    message = _fail(
        _config(**{"data.name": "cifar10", "data.dir": str(tmp_path)}), tmp_path / "run"
    )
    assert str(tmp_path) in message
    assert "official files of cifar10" in message


def test_start_that_failed_does_not_block_a_corrected_one(tmp_path, no_training):
    """There is nothing in the folder yet that another config could spoil."""
    _fail(_config(**{"data.name": str(tmp_path / "nowhere.npz")}), tmp_path / "run")
    message = _fail(_config(**{"data.batch_size": 1000}), tmp_path / "run")
    assert "config.data.batch_size is 1000" in message


# --- The workdir.


def test_workdir_that_cannot_be_written_to(tmp_path, no_training):
    file = tmp_path / "file"
    file.write_text("mine")
    assert "it is a file; choose another" in _fail(_config(), file).replace(")", "")
    assert "cannot write to the workdir" in _fail(_config(), file / "below")
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    "name, why",
    [
        (r"C:\runs\a", "looks like a path of Windows"),
        ("C:/runs/a", "looks like a path of Windows"),
        ("gs://bucket/a", "or an address"),
        (os.fsdecode(b"r\xe9sum\xe9"), r"r\\udce9sum\\udce9 in it is no Unicode"),
        ("/".join("a" * 200 for _ in range(19)), "more than 3800 bytes"),
        ("a" * 300, "too long"),
    ],
)
def test_a_workdir_that_checkpoints_cannot_lie_in_is_refused(
    tmp_path, monkeypatch, no_training, name, why
):
    """Orbax would split the first of these in two places, and fail with the others in the midst."""
    monkeypatch.chdir(tmp_path)
    assert re.search(why, _fail(_config(), name))
    assert list(tmp_path.iterdir()) == []


def test_a_workdir_below_a_file_or_a_link_to_nowhere_is_refused(tmp_path, no_training):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("/nowhere/there")
    assert "(Not a directory)" in _fail(_config(), tmp_path / "file" / "run")
    for place in (tmp_path / "link", tmp_path / "link" / "below"):
        message = _fail(_config(), place)
        assert f"{tmp_path}/link is a link to /nowhere/there, where there is nothing" in message


def test_workdir_in_use_is_refused_at_once_and_left_as_it_is(tmp_path, no_training):
    workdir = Workdir(tmp_path / "run")
    with hold(workdir.lock):
        message = _fail(_config(), workdir.root)
        assert f"{workdir.root} is in use by process {os.getpid()} on {platform.node()}" in message
        assert not workdir.config.exists()
    with hold(workdir.lock):
        pass


@pytest.mark.multiprocess
def test_lock_of_a_killed_process_does_not_block(tmp_path):
    lock = Workdir(tmp_path / "run").lock
    code = (
        "import sys, time; from pathlib import Path\n"
        "from autogrow_jax.reporting.workdir import hold\n"
        f"with hold(Path({str(lock)!r})): print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"in use by process {process.pid} on"), hold(lock):
        pass
    process.kill()
    process.communicate()
    with hold(lock):
        pass


def test_evaluate_where_there_is_no_run(tmp_path, no_training):
    for workdir in (tmp_path, tmp_path / "not-there"):
        assert "holds no run" in _fail(_config(mode="evaluate"), workdir)
    assert not (tmp_path / "not-there").exists()


# --- Divergence, and the folder of a run that was stopped by it.

# Decay alone multiplies the weights by -99 a step: a few epochs go well, on any machine.
DIVERGING = {
    "optimizer.learning_rate": 0.01,
    "optimizer.weight_decay": 1e4,
    "optimizer.momentum": 0.0,
}


@pytest.fixture(scope="module")
def diverged(tmp_path_factory):
    """Workdir of a run that diverged after at least one epoch, and the error."""
    workdir = tmp_path_factory.mktemp("diverged")
    with pytest.raises(DivergedError) as error:
        run(_config(**DIVERGING), workdir, reporter=QuietReporter())
    return workdir, str(error.value)


def _copy(diverged, tmp_path):
    return Path(shutil.copytree(diverged[0], tmp_path / "copy"))


def test_divergence_names_epoch_and_step_and_keeps_good_weights(diverged):
    workdir, message = diverged
    epochs = len(read(workdir / "metrics.jsonl"))
    assert epochs >= 1
    assert f"epoch {epochs}, step " in message
    assert "learning_rate" in message
    store = CheckpointStore(workdir / "checkpoints", 2)
    assert store.latest() == epochs
    for array in store.read(epochs).arrays.values():
        assert np.isfinite(array).all()
    store.close()
    assert not (workdir / "result.json").exists()


def test_divergence_again_after_a_restart(diverged, tmp_path):
    workdir = _copy(diverged, tmp_path)
    before = (workdir / "metrics.jsonl").read_bytes()
    assert _fail(_config(**DIVERGING), workdir) == diverged[1]
    assert (workdir / "metrics.jsonl").read_bytes() == before


def test_weights_lost_in_the_last_step_are_not_saved(tmp_path):
    """No loss has seen them, as a step's loss is that of the weights before it."""
    message = _fail(_config(**DIVERGING | {"optimizer.learning_rate": 1e38}), tmp_path)
    assert "epoch 0, step 0, the last" in message
    assert not any((tmp_path / "checkpoints").iterdir())


def test_other_config_is_refused_before_data_are_loaded(diverged, tmp_path, no_training):
    workdir = _copy(diverged, tmp_path)
    message = _fail(_config(**DIVERGING, **{"data.name": "nowhere.npz", "seed": 3}), workdir)
    assert "data.name: 'digits' -> 'nowhere.npz'" in message
    assert "seed: 0 -> 3" in message
    assert "optimizer" not in message


@pytest.mark.parametrize("content", ["{", "[]", "", None])
def test_damaged_config_json(diverged, tmp_path, no_training, content):
    workdir = _copy(diverged, tmp_path)
    if content is None:
        (workdir / "config.json").unlink()
    else:
        (workdir / "config.json").write_text(content)
    for mode in ("scratch", "evaluate"):
        message = _fail(_config(**DIVERGING, mode=mode), workdir)
        assert "config.json" in message
        assert "choose another --workdir" in message


def test_damaged_metrics_name_file_and_line_and_a_run_brings_them_back(diverged, tmp_path):
    workdir = _copy(diverged, tmp_path)
    file, told = workdir / "metrics.jsonl", Told()
    lines = file.read_text().splitlines()
    file.write_text("nonsense\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 1"):
        read(file)
    with pytest.raises(DivergedError):
        run(_config(**DIVERGING), workdir, reporter=told)
    assert f"{file} was damaged; it is as it was after {len(lines)} epochs" in told.messages
    assert file.read_text().splitlines() == lines


@pytest.mark.parametrize("content", ["{", "[]", "{}", None])
def test_damaged_result(diverged, tmp_path, no_training, content):
    workdir = _copy(diverged, tmp_path)
    if content is None:  # A result whose checkpoints are gone.
        content = json.dumps(dict.fromkeys(["num_classes", "image_shape"], 1) | _result())
        shutil.rmtree(workdir / "checkpoints")
    (workdir / "result.json").write_text(content)
    message = _fail(_config(**DIVERGING), workdir)
    assert str(workdir / "result.json") in message
    assert "elete it" in message


def _result():
    from autogrow_jax.reporting.result import RESULT_KEYS

    return dict.fromkeys(RESULT_KEYS, 0)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: shutil.rmtree(folder / "arrays"),
        lambda folder: shutil.rmtree(folder / "memory"),
        lambda folder: (folder / "memory" / "metadata").write_text('{"epoch": '),
        lambda folder: [shutil.rmtree(folder), folder.mkdir()],
    ],
    ids=["no-arrays", "no-memory", "torn-memory", "empty"],
)
def test_damaged_checkpoint_is_named_and_the_one_before_it_taken(
    diverged, tmp_path, no_training, damage
):
    workdir = _copy(diverged, tmp_path)
    epochs = len(read(workdir / "metrics.jsonl"))
    folder = workdir / "checkpoints" / f"epoch_{epochs}"
    damage(folder)
    message = _fail(_config(**DIVERGING, mode="evaluate"), workdir)
    assert f"{folder} is damaged" in message
    assert "the same command that began the run goes on from the one before it" in message
    told, reporter = [], QuietReporter()
    reporter.message = told.append
    with pytest.raises(AssertionError, match="a network was made"):
        run(_config(**DIVERGING), workdir, reporter=reporter)
    assert f"{folder} is damaged" in told[-1]
    assert f"the run goes on from epoch {epochs - 1}" in told[-1]


def test_half_written_checkpoint_is_ignored(diverged, tmp_path):
    workdir = _copy(diverged, tmp_path)
    epochs = len(read(workdir / "metrics.jsonl"))
    whole = workdir / "checkpoints" / f"epoch_{epochs}"
    shutil.copytree(whole, whole.with_name(f"epoch_{epochs + 1}.orbax-checkpoint-tmp"))
    store = CheckpointStore(workdir / "checkpoints", 2)
    assert store.latest() == epochs
    store.close()


def test_checkpoint_of_another_network(diverged, tmp_path):
    """As when the data set has got another class since."""
    workdir = _copy(diverged, tmp_path)
    saved = json.loads((workdir / "config.json").read_text())
    saved["model"]["family"] = "basic3"
    (workdir / "config.json").write_text(json.dumps(saved))
    message = _fail(_config(**DIVERGING, **{"model.family": "basic3"}), workdir)
    assert "does not fit this network" in message
    assert "not in the checkpoint" in message
