"""Runs that go on from the net of another run."""

import json
import shutil

import jax
import numpy as np
import pytest
from stand_ins import StopAt, Told

from autogrow_jax.build import load_data as load_data_of
from autogrow_jax.build import resolve
from autogrow_jax.config import default_config
from autogrow_jax.data import Dataset, load_dataset
from autogrow_jax.errors import UserError
from autogrow_jax.growth import periodic
from autogrow_jax.report.facts import gather
from autogrow_jax.report.sections import show_growth
from autogrow_jax.reporting import QuietReporter
from autogrow_jax.reporting.result import format_result
from autogrow_jax.training import load, run

STILL = 1e-20  # A learning rate that moves no weight.


def make_config(**changes):
    config = default_config()
    config.data.fraction = 0.1
    config.data.batch_size = 32
    config.num_devices = 1
    config.growth.interval = 1
    config.growth.max_epochs = 2
    config.growth.compile_ahead = False
    config.finetune.epochs = 1
    config.finetune.front = False
    config.log.progress = False
    config.log.tensorboard = False
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    return config


def train(workdir, reporter=None, dataset=None, policy=None, **changes):
    given = {"dataset": dataset, "policy": policy}
    return run(make_config(**changes), workdir, reporter=reporter or QuietReporter(), **given)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A run on five of the digits that kept averaged weights, and its result."""
    workdir = tmp_path_factory.mktemp("first")
    return workdir, train(
        workdir,
        **{"mode": "scratch", "model.depths": (2, 2, 1)},
        **{"data.classes": "4,3,2,1,0", "optimizer.ema": 0.9},
    )


@pytest.fixture(scope="module")
def second(first, tmp_path_factory):
    """A run on all digits that went on from it."""
    workdir, lines = tmp_path_factory.mktemp("second"), Told()
    return workdir, train(workdir, lines, init_from=str(first[0])), lines.messages


def test_growth_goes_on_from_the_depths_that_were_found(first, second):
    (there, found), (workdir, result, messages) = first, second
    assert found.depths == (2, 2, 1)
    assert result.seed_depths == found.depths
    assert result.depths == (3, 3, 1)
    told = json.loads((workdir / "result.json").read_text())["init_from"]
    assert told == {
        "workdir": str(there),
        "dataset": "digits",
        "depths": [2, 2, 1],
        "epochs": 1,
        "classes_kept": ["0", "1", "2", "3", "4"],
    }
    config = json.loads((workdir / "config.json").read_text())
    assert (config["init_from"], config["model"]["depths"]) == (str(there), [2, 2, 1])
    start = f"starts from 2-2-1, found on digits in {there}; 0, 1, 2, 3, 4 keep their outputs, the"
    assert f"{start} others start anew" in messages
    row = f"started from         2-2-1 on digits, 5 classes of the same name; {there}"
    assert row in format_result(result.to_dict())


def test_what_the_net_was_trained_on_before_stays_known(first, second):
    before, after = (np.load(workdir / "train_ids.npy") for workdir in (first[0], second[0]))
    assert set(before) < set(after)


def test_held_out_images_that_the_net_was_trained_on_are_told(tmp_path):
    """Moved from train to test, before a run goes on from it or the same run goes on."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (120, 8, 8, 1), dtype=np.uint8), np.arange(120) % 3
    how = {"mode": "scratch", "data.fraction": 1.0, "model.depths": (1, 1, 1)}

    def parted(count, seed=0):
        given = {"x_test": images[-count:], "y_test": labels[-count:], "seed": seed}
        return Dataset.from_arrays(images[:-count], labels[:-count], **given)

    train(tmp_path / "first", told := Told(), parted(30), **how)
    assert not any("was trained on before" in text for text in told.messages)
    seen = np.isin(parted(60).test.ids, np.load(tmp_path / "first" / "train_ids.npy")).sum()
    assert 0 < seen < 60
    going_on = how | {"init_from": str(tmp_path / "first")}
    train(tmp_path / "second", told := Told(), parted(60), **going_on)
    assert any(f"{seen} of the 60 test images the net was trained" in x for x in told.messages)
    # Other images of the same are held out to steer.
    train(tmp_path / "third", told := Told(), parted(30, seed=1), **going_on)
    assert any("validation images the net was trained on before" in x for x in told.messages)
    assert not any("test images the net was trained on" in text for text in told.messages)
    train(tmp_path / "fourth", told := Told(), parted(30), **going_on)
    assert not any("was trained on before" in text for text in told.messages)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "fifth", StopAt(0), parted(30), **how)
    more = how | {"data.allow_changes": True}
    train(tmp_path / "fifth", told := Told(), parted(60), **more)
    assert any(f"{seen} of the 60 test images the net was trained" in x for x in told.messages)


def test_it_stays_known_where_that_run_is_gone(first, tmp_path):
    shutil.copytree(first[0], tmp_path / "first")
    before = np.load(tmp_path / "first" / "train_ids.npy")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "second", StopAt(1), init_from=str(tmp_path / "first"))
    shutil.rmtree(tmp_path / "first")
    train(tmp_path / "second", init_from=str(tmp_path / "first"))
    assert set(before) < set(np.load(tmp_path / "second" / "train_ids.npy"))


def test_a_report_says_where_the_net_came_from(first, second):
    said = str(next(iter(show_growth(gather(second[0], None, None)))))
    assert f"Growth began with 2-2-1, the net that {first[0]} found on digits (5 classes" in said


def test_all_weights_are_the_old_ones_but_outputs_of_new_classes(first, tmp_path):
    changes = {"mode": "scratch", "optimizer.learning_rate": STILL}
    result = train(tmp_path, init_from=str(first[0]), **changes)
    old, new = load(first[0]).variables["params"], result.variables["params"]
    head, old_head = new.pop("head"), old.pop("head")
    jax.tree.map(np.testing.assert_array_equal, new, old)
    assert head["kernel"].shape[1] == 10
    np.testing.assert_array_equal(head["kernel"][:, :5], old_head["kernel"])
    np.testing.assert_array_equal(head["bias"][:5], old_head["bias"])
    assert (np.abs(head["kernel"][:, 5:]).max(axis=0) > 0).all()


@pytest.mark.slow
def test_classes_are_matched_by_name_and_the_old_normalisation_stays(first, tmp_path):
    digits = load_dataset("digits")
    darker = digits.train.images[:400] // 2
    names = ("a", *"123", "b", *"5678", "0")
    dataset = Dataset.from_arrays(darker, digits.train.labels[:400], class_names=names)
    assert dataset.preprocessing.mean != (0.0,)
    changes = {"mode": "scratch", "optimizer.learning_rate": STILL, "data.fraction": 1.0}
    result = train(tmp_path, dataset=dataset, init_from=str(first[0]), **changes)
    head, old = (
        x["params"]["head"]["kernel"] for x in (result.variables, load(first[0]).variables)
    )
    np.testing.assert_array_equal(head[:, [9, 1, 2, 3]], old[:, :4])
    assert not np.isin(head[:, [0, 4, 5]], old).any()
    assert result.more["mean"] == (0.0,)
    assert load(tmp_path).preprocessing.mean == (0.0,)
    # Read again by what evaluates it, and by the same command.
    again = train(tmp_path, dataset=dataset, init_from=str(first[0]), **changes)
    assert again.test_accuracy == result.test_accuracy
    evaluation = {"mode": "evaluate", "data.fraction": 1.0}
    tested = train(tmp_path, told := Told(), dataset=dataset, **evaluation)
    assert tested.test_accuracy == pytest.approx(result.test_accuracy)
    assert not any("changed" in text for text in told.messages)


def test_images_of_the_first_net_stay_known_where_the_list_of_both_is_lost(first, tmp_path):
    changes = {"mode": "scratch", "data.fraction": 0.5, "finetune.epochs": 2}
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, StopAt(1), init_from=str(first[0]), **changes)
    ids = tmp_path / "train_ids.npy"
    before = np.load(ids)
    ids.unlink()
    train(tmp_path, init_from=str(first[0]), **changes)
    np.testing.assert_array_equal(np.sort(np.load(ids)), np.sort(before))
    assert np.isin(np.load(first[0] / "train_ids.npy"), np.load(ids)).all()


def test_a_sets_own_mean_is_no_change_and_does_not_take_the_place_of_the_old_one(tmp_path):
    """Evaluated on its own images, and gone on with where nothing says any more what they were."""
    digits, names = load_dataset("digits"), []
    for darker in (1, 3):
        file = tmp_path / f"{darker}.npz"
        images, labels = digits.train.images[:300] // darker, digits.train.labels[:300]
        np.savez(file, x_train=images, y_train=labels, x_test=images[:50], y_test=labels[:50])
        names.append({"data.name": str(file), "data.fraction": 1.0, "mode": "scratch"})
    train(tmp_path / "first", **names[0])
    going_on = names[1] | {"init_from": str(tmp_path / "first"), "finetune.epochs": 3}
    workdir = tmp_path / "second"
    with pytest.raises(KeyboardInterrupt):
        train(workdir, StopAt(1), **going_on)
    known = (workdir / "dataset.json").read_text()
    train(workdir, told := Told(), mode="evaluate")
    assert not any("changed" in text for text in told.messages)
    (workdir / "dataset.json").unlink()
    train(workdir, told := Told(), mode="evaluate")
    assert not any("changed" in text for text in told.messages)
    there = tmp_path / "first" / "dataset.json"
    there.rename(tmp_path / "aside")
    for mode in ("evaluate", "scratch"):
        with pytest.raises(UserError, match=r"first/dataset\.json is not there, which says how"):
            train(workdir, **going_on | {"mode": mode})
    (tmp_path / "aside").rename(there)
    train(workdir, **going_on)
    assert (workdir / "dataset.json").read_text() == known
    assert load(workdir).preprocessing == load(tmp_path / "first").preprocessing


def test_a_run_that_was_stopped_ends_the_same_without_the_first_one(first, second, tmp_path):
    there = shutil.copytree(first[0], tmp_path / "there")
    workdir = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(workdir, StopAt(1), init_from=str(there))
    shutil.rmtree(there)
    result = train(workdir, init_from=str(there))
    assert result.more["init_from"] == second[1].more["init_from"] | {"workdir": str(there)}
    jax.tree.map(np.testing.assert_array_equal, result.variables, second[1].variables)
    with pytest.raises(UserError, match=r"init_from: '.*there' -> ''"):
        train(workdir)
    with pytest.raises(UserError, match=r"init_from: '.*there' -> '.*first"):
        train(workdir, init_from=str(first[0]))


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"model.family": "basic3"},
            "has the family 'plain3', but config.model.family is 'basic3'",
        ),
        ({"model.stem": "imagenet"}, "has the stem 'small', but config.model.stem is 'imagenet'"),
        ({"model.depths": (1, 2, 1)}, r"config.model.depths is \(1, 2, 1\), but config.init_from"),
        ({"growth.max_depths": (1,)}, r"is the start: config.model.depths is \(2, 2, 1\), which"),
        ({"init_from": "nowhere"}, "nowhere holds no run"),
    ],
)
def test_what_does_not_fit_is_refused(first, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        train(tmp_path / "run", **{"init_from": str(first[0])} | changes)
    assert not (tmp_path / "run" / "config.json").exists()


def test_images_of_other_channels_are_refused(first, tmp_path):
    digits = load_dataset("digits").train
    colour = Dataset.from_arrays(np.repeat(digits.images, 3, -1)[:400], digits.labels[:400])
    message = "takes images of 1 channel, but those of arrays have 3; bring images of 1"
    with pytest.raises(UserError, match=message):
        train(tmp_path, dataset=colour, init_from=str(first[0]), **{"data.fraction": 1.0})


def test_a_policy_of_ones_own_has_to_start_at_the_depths(first, tmp_path):
    policy = periodic(seed_depths=(1, 1, 1), interval=1, max_growth_epochs=1)
    with pytest.raises(UserError, match=r"the policy starts at \(1, 1, 1\); give both the same"):
        train(tmp_path, policy=policy, init_from=str(first[0]))


def test_a_run_that_has_not_finished_is_no_start(first, tmp_path):
    there = shutil.copytree(first[0], tmp_path / "there")
    (there / "result.json").unlink()
    with pytest.raises(UserError, match="a run that has not finished"):
        train(tmp_path / "run", init_from=str(there))


def test_classes_leave_every_image_in_its_part():
    whole, some = load_dataset("digits"), load_dataset("digits", classes="7, 2")
    assert some.class_names == ("2", "7")
    for name, part in some.parts.items():
        chosen = np.isin(whole.parts[name].labels, (2, 7))
        np.testing.assert_array_equal(part.ids, whole.parts[name].ids[chosen])
        expected = np.where(whole.parts[name].labels[chosen] == 7, 1, 0)
        np.testing.assert_array_equal(part.labels, expected)
        assert part.labels.dtype == np.int32
    config = make_config(**{"data.classes": "7,2", "data.fraction": 1.0})
    assert load_data_of(resolve(config)).class_names == ("2", "7")
    with pytest.raises(UserError, match=r"has no class '11'; did you mean '1'\? Known: 0, 1"):
        load_dataset("digits", classes="1,11")
    with pytest.raises(UserError, match="one class of scikit-learn's digits; name at least two"):
        load_dataset("digits", classes="1")
