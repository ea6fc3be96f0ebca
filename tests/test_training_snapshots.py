"""Snapshots of a run's weights: which there are, what they hold, what a killed run leaves."""

import jax
import numpy as np
import pytest
from stand_ins import StopAt, tiny_config

from autogrow_jax import config as config_lib
from autogrow_jax.build import load_data
from autogrow_jax.data import normalize
from autogrow_jax.errors import UserError
from autogrow_jax.reporting import QuietReporter
from autogrow_jax.reporting.metrics import read
from autogrow_jax.training import run
from autogrow_jax.training.snapshots import (
    Snapshot,
    Snapshots,
    read_snapshot,
    snapshot_files,
    write_snapshot,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")


def _config(**changes):
    """Grows one stage every epoch, five times, then fine-tunes two epochs: seven in all."""
    own = {"growth.max_epochs": 5, "finetune.epochs": 2, "optimizer.ema": 0.5, "snapshots.every": 2}
    return tiny_config(**own | changes)


@pytest.fixture(scope="module")
def workdir(quick_compilation, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    run(_config(), workdir, reporter=QuietReporter())
    return workdir


def _snapshots(workdir):
    return [read_snapshot(path) for path in snapshot_files(workdir / "snapshots")]


def _assert_same(ours, theirs):
    assert [(s.epoch, s.depths) for s in ours] == [(s.epoch, s.depths) for s in theirs]
    for a, b in zip(ours, theirs, strict=True):
        jax.tree.map(np.testing.assert_array_equal, a.variables, b.variables)


def test_first_every_second_and_last(workdir):
    assert [snapshot.epoch for snapshot in _snapshots(workdir)] == [0, 2, 4, 6, 7]


def test_the_network_is_that_of_the_epoch_before_it_grew(workdir):
    depths = [tuple(line["depths"]) for line in read(workdir / "metrics.jsonl")]
    assert depths[1] != depths[2] and depths[3] != depths[4]  # It grew right after a snapshot.
    for snapshot in _snapshots(workdir)[1:]:
        assert snapshot.depths == depths[snapshot.epoch - 1]


def test_it_has_the_validation_loss_of_metrics_jsonl(workdir):
    """So the weights are those that were evaluated: averaged ones, at exact depth."""
    config = config_lib.resolve(_config())
    data = load_data(config)
    images = normalize(data.validation.images, data.preprocessing)
    lines = read(workdir / "metrics.jsonl")
    for snapshot in _snapshots(workdir)[1::2]:
        network = config_lib.make_network(config, 10, 1, snapshot.depths)
        logits = network.apply(snapshot.variables, images)
        losses = -jax.nn.log_softmax(logits)[np.arange(len(images)), data.validation.labels]
        wanted = lines[snapshot.epoch - 1]["validation_loss"]
        np.testing.assert_allclose(np.mean(losses), wanted, rtol=1e-4)


@pytest.mark.parametrize("stop_at, every", [(0, 1), (6, 4)])
def test_a_killed_and_resumed_run_has_the_same(workdir, tmp_path, stop_at, every):
    config = _config(**{"checkpoint.every": every})
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path, reporter=StopAt(stop_at))
    # Behind the last checkpoint nothing is to be trusted, whatever it is.
    (tmp_path / "snapshots" / "epoch_000007.npz").write_bytes(b"torn")
    (tmp_path / "snapshots" / "epoch_000099.npz").write_bytes(b"of another config")
    run(config, tmp_path, reporter=QuietReporter())
    _assert_same(_snapshots(tmp_path), _snapshots(workdir))


def test_none_by_default(tmp_path):
    snapshots = Snapshots(tmp_path / "snapshots", config_lib.default_config().snapshots.every)
    trainer = None  # Not to be looked at.
    snapshots.begin(trainer, 0)
    for epoch in range(1, 9):
        snapshots.after_epoch(trainer, epoch)
    snapshots.end(trainer, 9)
    assert not any(tmp_path.iterdir())


def test_writing_and_reading_change_nothing(tmp_path):
    variables = {
        "params": {"stage0": {"rest": {"kernel": np.zeros((0, 3), np.float32)}}, "head": {}},
        "batch_stats": {"stem": {"mean": np.float32([1.5, np.nan])}},
    }
    path = write_snapshot(tmp_path / "new", Snapshot(12, (1, 2), variables))
    assert path.name == "epoch_000012.npz"
    read_back = read_snapshot(path)
    del variables["params"]["head"]  # A module without arrays leaves none.
    _assert_same([read_back], [Snapshot(12, (1, 2), variables)])


@pytest.mark.parametrize("length", [0, 100, -100])
def test_a_damaged_one_is_named(workdir, tmp_path, length):
    content = snapshot_files(workdir / "snapshots")[1].read_bytes()
    path = tmp_path / "epoch_000002.npz"
    path.write_bytes(content[:length])
    with pytest.raises(UserError, match=f"{path} is missing or damaged.*delete it"):
        read_snapshot(path)
