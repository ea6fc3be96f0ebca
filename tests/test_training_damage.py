"""Checkpoints that were damaged: found out, file by file, and what a run does then."""

import json
import shutil
from contextlib import closing

import jax.numpy as jnp
import numpy as np
import pytest

from autogrow_jax.errors import UserError
from autogrow_jax.reporting import Workdir
from autogrow_jax.reporting.metrics import truncate
from autogrow_jax.reporting.workdir import open_workdir, read_config
from autogrow_jax.saving.arrays import write_arrays
from autogrow_jax.saving.checkpoint import CheckpointStore, DamagedError
from autogrow_jax.training.start import find_lacking, find_start

# Large enough for tensorstore to put it into a file of its own, where nothing checks it.
_WEIGHTS = np.random.default_rng(0).normal(size=(60, 100)).astype(np.float32)
_DAMAGES = {
    "emptied": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "short": lambda content: content[:-1],
    "zeros": lambda content: bytes(len(content)),
    "first": lambda content: _flip(content, 0),
    "middle": lambda content: _flip(content, len(content) // 2),
    "last": lambda content: _flip(content, len(content) - 1),
    "deleted": None,
}


def _flip(content, place):
    return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


def _damage(file, how):
    change = _DAMAGES[how]
    if change is None:
        file.unlink()
    else:
        file.write_bytes(change(file.read_bytes()))


def _memory(epoch):
    return {"epoch": epoch, "pi": 3.141592653589793, "growth": [{"stage": 0}]}


def _save(folder, epochs=(1, 2, 3), keep=2):
    with closing(CheckpointStore(folder, keep)) as store:
        for epoch in epochs:
            tree = {"params": {"w": jnp.asarray(_WEIGHTS + epoch), "b": jnp.ones(7)}}
            store.save(epoch, tree, _memory(epoch), 90.0 - 10 * epoch)
            store.wait()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damage") / "checkpoints"
    _save(folder)
    return folder


def _files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _resume(folder):
    """What a run that goes on from there does: the epoch it begins with, and what it was told."""
    told = []
    with closing(CheckpointStore(folder, 2)) as store:
        restored = store.read_newest(lambda memory: "", told.append)
        epoch = restored.memory["epoch"]
        assert restored.memory == {
            "epoch": epoch,
            "pi": 3.141592653589793,
            "growth": [{"stage": 0}],
        }
        np.testing.assert_array_equal(restored.arrays["params.w"], _WEIGHTS + epoch)
        np.testing.assert_array_equal(restored.arrays["params.b"], np.ones(7))
        assert store.best() == 1
    return epoch, told


def _check_each(saved, tmp_path, hows):
    """Damages each file of the newest checkpoint; returns how often another was taken instead."""
    fell_back = 0
    for number, file in enumerate(_files(saved / "epoch_3")):
        for how in hows:
            there = tmp_path / f"{number}-{how}"
            shutil.copytree(saved, there)
            _damage(there / file.relative_to(saved), how)
            epoch, told = _resume(there)
            assert epoch in (2, 3), (file, how)
            if epoch == 2:
                fell_back += 1
                assert (there / "damaged.epoch_3").is_dir()
                assert len(told) == 1, told
                assert f"the checkpoint {there / 'epoch_3'} is damaged" in told[0]
                assert told[0].endswith(
                    "it is now damaged.epoch_3, and the run goes on from epoch 2"
                )
            else:
                assert not told
            shutil.rmtree(there)
    return fell_back


def test_a_changed_byte_in_any_file_is_harmless_or_found(saved, tmp_path):
    """Orbax alone read some of them without a word, and others with a traceback."""
    assert _check_each(saved, tmp_path, ["middle"]) >= 5


@pytest.mark.slow
def test_any_damage_to_any_file_is_harmless_or_found(saved, tmp_path):
    assert _check_each(saved, tmp_path, _DAMAGES) >= 40


def test_the_epoch_of_one_that_is_damaged_can_be_saved_again(saved, tmp_path):
    there = tmp_path / "checkpoints"
    shutil.copytree(saved, there)
    (there / "epoch_3" / "arrays" / "manifest.ocdbt").unlink()
    assert _resume(there)[0] == 2
    _save(there, [3])
    assert _resume(there) == (3, [])


@pytest.mark.parametrize("what", ["arrays", "memory", "metrics", "."])
def test_a_folder_of_a_checkpoint_that_is_gone_is_found(saved, tmp_path, what):
    there = tmp_path / "checkpoints"
    shutil.copytree(saved, there)
    shutil.rmtree(there / "epoch_3" / what)
    epoch, told = _resume(there)
    assert epoch == (3 if what == "metrics" else 2)
    # Of a checkpoint that is gone as a whole nobody knows.
    assert len(told) == (what in ("arrays", "memory"))


def test_where_every_checkpoint_is_damaged_nothing_is_put_aside(saved, tmp_path):
    there = tmp_path / "checkpoints"
    shutil.copytree(saved, there)
    for epoch in (1, 2, 3):
        (there / f"epoch_{epoch}" / "memory" / "metadata").write_bytes(b"{")
    for _ in range(2):
        with (
            closing(CheckpointStore(there, 2)) as store,
            pytest.raises(UserError, match=r"epoch_3 is damaged.*epoch_1 is damaged.*no other"),
        ):
            store.read_newest(lambda memory: "", print)
        assert sorted(path.name for path in there.iterdir()) == ["epoch_1", "epoch_2", "epoch_3"]


def test_an_accuracy_that_was_changed_makes_no_other_checkpoint_the_best(saved, tmp_path):
    """A number for a number: nothing that reads it could see that."""
    there = tmp_path / "checkpoints"
    shutil.copytree(saved, there)
    file = there / "epoch_2" / "metrics" / "metrics"
    file.write_text(json.dumps({"validation_accuracy": 99.0}))
    with closing(CheckpointStore(there)) as store:
        assert store.best() == 1
    assert json.loads(file.read_text()) == {"validation_accuracy": 99.0}, "who reads mends nothing"
    assert _resume(there) == (3, [])
    assert json.loads(file.read_text()) == {"validation_accuracy": 70.0}


def test_a_checkpoint_from_before_there_were_checksums_is_read(saved, tmp_path):
    there = tmp_path / "checkpoints"
    shutil.copytree(saved, there)
    for file in there.glob("*/memory/metadata"):
        memory = json.loads(file.read_text())
        del memory["checksums"]
        file.write_text(json.dumps(memory))
    assert _resume(there) == (3, [])


@pytest.mark.parametrize(
    "damage",
    [
        lambda file, text: file.unlink(),
        lambda file, text: file.write_bytes(b""),
        lambda file, text: file.write_text(text[:30]),
        lambda file, text: file.write_text(text.replace("1.5", "1.7")),
        lambda file, text: file.write_bytes(bytes(len(text))),
    ],
)
def test_lines_of_metrics_that_were_lost_or_changed_come_from_the_checkpoint(tmp_path, damage):
    """They are in no disk's hands when the power fails, as a checkpoint is."""
    workdir, told = Workdir(tmp_path), []
    text = "".join(f'{{"epoch": {epoch}, "train_loss": 1.5}}\n' for epoch in range(2))
    with closing(CheckpointStore(workdir.checkpoints, 2)) as store:
        store.save(2, {"b": jnp.ones(7)}, _memory(2) | {"metrics": text}, 90.0)
        store.wait()
        more = text + '{"epoch": 2, "train_lo' + "\0" * 9
        workdir.metrics.write_text(more)
        assert find_start(workdir, store, told.append).memory["epoch"] == 2
        assert not told, "what follows is trained again"
        damage(workdir.metrics, more)
        assert find_start(workdir, store, told.append).memory["epoch"] == 2
    assert workdir.metrics.read_text() == text
    assert told == [f"{workdir.metrics} was damaged; it is as it was after 2 epochs"]


def test_lines_that_nothing_was_saved_after_are_dropped_whatever_they_are(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b"\0\n\0")
    assert truncate(tmp_path / "metrics.jsonl", 0) == []
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""


@pytest.mark.parametrize("folder", ["", "candidates", "snapshots", "plots"])
def test_what_a_killed_start_left_unfinished_is_deleted_by_the_next(tmp_path, folder):
    unfinished = tmp_path / folder / ".epoch_000001.npz.g9m24_hi.tmp"
    unfinished.parent.mkdir(exist_ok=True)
    unfinished.write_bytes(b"half of it")
    open_workdir(Workdir(tmp_path), {"seed": 0}, lambda old, new: [])
    assert not unfinished.exists()
    assert read_config(Workdir(tmp_path)) == {"seed": 0}


def test_of_candidates_those_that_a_checkpoint_needs_have_to_be_whole(tmp_path):
    entries = [
        {"depths": [1, 1, 1], "saved": 3},
        {"depths": [2, 1, 1], "saved": 4},
        {"depths": [2]},
    ]
    files = [tmp_path / "1-1-1.000003.npz", tmp_path / "2-1-1.000004.npz"]
    for file in files:
        write_arrays(file, {"w": _WEIGHTS}, {"epoch": 3})
    assert find_lacking(tmp_path, {"candidates": entries, "candidate": None}) == ""
    _damage(files[1], "middle")
    assert str(files[1]) in find_lacking(tmp_path, {"candidates": entries, "candidate": None})
    assert find_lacking(tmp_path, {"candidates": entries, "candidate": 1}) == ""
    files[0].unlink()
    assert find_lacking(tmp_path, {"candidates": entries, "candidate": 1}) == f"{files[0]} is gone"


def test_what_cannot_be_gone_on_from_is_passed_over_with_the_reason(saved, tmp_path):
    there, told = tmp_path / "checkpoints", []
    shutil.copytree(saved, there)
    with closing(CheckpointStore(there, 2)) as store:
        restored = store.read_newest(
            lambda memory: "it is too new" if memory["epoch"] > 1 else "", told.append
        )
        assert restored.memory["epoch"] == 1 and store.all_epochs() == [1]
        with pytest.raises(DamagedError):
            store.read(3)
    assert [line.partition("; ")[0] for line in told] == [
        f"the checkpoint {there / 'epoch_3'} cannot be used: it is too new",
        f"the checkpoint {there / 'epoch_2'} cannot be used: it is too new",
    ]
