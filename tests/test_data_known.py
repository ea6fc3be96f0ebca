"""What a run knows of its data: every image by its content, whatever else lies beside it."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from stand_ins import StopAt

from autogrow_jax.data import (
    Dataset,
    Known,
    Preprocessing,
    Split,
    list_changes,
    load_dataset,
    load_other,
    normalize,
)
from autogrow_jax.data.partition import hold_out_test
from autogrow_jax.errors import UserError
from autogrow_jax.files.types import image_ids
from autogrow_jax.reporting import QuietReporter, Workdir, format_result
from autogrow_jax.reporting.metrics import read
from autogrow_jax.training import load, run
from autogrow_jax.training.evaluation import _describe_overlap, keep_known

NAMES = ("ant", "bee", "cat", "dog")


def write_classes(root, count=40, names=NAMES, size=8, stem="im", seed=0, light=1.0):
    """`count` images a class; each has a bright square where its class has it."""
    rng = np.random.default_rng(seed)
    for k, name in enumerate(names):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = rng.integers(0, 60, (size, size, 3), np.uint8)
            row, column = (size // 2 * place for place in divmod(k % 4, 2))
            pixels[row : row + size // 2, column : column + size // 2] += np.uint8(150)
            pixels = (pixels * light).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{stem}{i:03d}.png")
    return root


def load_folder(root, **settings):
    return load_dataset(f"folder:{root}", cache_directory=str(root.parent / "cache"), **settings)


def all_ids(dataset):
    return np.concatenate([part.ids for part in (dataset.train, dataset.validation, dataset.test)])


def test_an_image_has_one_id_whatever_its_size_and_place(tmp_path):
    root = write_classes(tmp_path / "set", 5)
    dataset, again = load_folder(root), load_folder(root, image_size=4)
    assert len(np.unique(all_ids(dataset))) == 20
    assert sorted(all_ids(dataset)) == sorted(all_ids(again))
    for path in root.rglob("*.png"):
        path.rename(path.with_stem(f"x{9 - int(path.stem[2:])}"))
    assert sorted(all_ids(load_folder(root))) == sorted(all_ids(dataset))


def test_images_of_arrays_have_ids_of_their_pixels(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 1)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", x_train=images, y_train=np.arange(40) % 2)
    np.savez(tmp_path / "b.npz", x_train=images[::-1], y_train=np.arange(40) % 2)
    one, two = (load_dataset(str(tmp_path / f"{name}.npz")) for name in "ab")
    padded = load_dataset(str(tmp_path / "a.npz"), image_size=8)
    assert len(np.unique(all_ids(one))) == 40
    assert sorted(all_ids(one)) == sorted(all_ids(two)) == sorted(all_ids(padded))


def seen_before(old, new):
    """Of each held-out part of a set that grew, how many images were trained on before."""
    parts = {"validation": new.validation, "test": new.test}
    return {name: int(np.isin(part.ids, old.train.ids).sum()) for name, part in parts.items()}


def test_images_added_later_never_move_one_from_train_to_test(tmp_path):
    root = write_classes(tmp_path / "set")
    old = load_folder(root)
    for count in (1, 30):
        write_classes(root, count, stem=f"new{count}", seed=count)
        new = load_folder(root)
        assert seen_before(old, new) == {"validation": 0, "test": 0}
    assert set(old.test.ids) < set(new.test.ids) and set(old.train.ids) < set(new.train.ids)


def test_a_class_added_later_moves_no_image(tmp_path):
    root = write_classes(tmp_path / "set")
    old = load_folder(root)
    write_classes(root, names=("ape",), seed=1)
    new = load_folder(root)
    assert seen_before(old, new) == {"validation": 0, "test": 0}
    assert set(old.test.ids) < set(new.test.ids) and len(new.test.ids) > len(old.test.ids)


def test_copies_of_one_image_go_together(tmp_path):
    root = write_classes(tmp_path / "set", 20)
    for path in sorted(root.rglob("*.png")):
        (path.parent / f"copy_of_{path.name}").write_bytes(path.read_bytes())
    dataset = load_folder(root)
    parts = [set(part.ids) for part in (dataset.train, dataset.validation, dataset.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 80
    assert all(np.bincount(part.labels).min() >= 2 for part in (dataset.validation, dataset.test))


def test_parts_have_about_the_size_asked_for_in_every_class(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (6000, 4, 4, 1)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", x_train=images, y_train=np.arange(6000) % 3)
    dataset = load_dataset(str(tmp_path / "a.npz"), validation="0.3")
    for part, expected in ((dataset.test, 400), (dataset.validation, 480)):
        counts = np.bincount(part.labels)
        assert np.abs(counts - expected).max() < 4 * np.sqrt(expected)


def test_of_the_digits_a_fifth_and_a_tenth_are_held_out_in_every_class():
    dataset = load_dataset("digits")
    assert [len(part.labels) for part in (dataset.train, dataset.validation, dataset.test)] == [
        1293,
        145,
        359,
    ]
    for part, share in ((dataset.test, 36), (dataset.validation, 14.4)):
        assert np.abs(np.bincount(part.labels, minlength=10) - share).max() < 4


def test_every_class_is_in_every_part_while_it_has_images_enough(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (240, 4, 4, 1)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", x_train=images, y_train=np.arange(240) % 40)
    for seed in range(5):
        dataset = load_dataset(str(tmp_path / "a.npz"), seed=seed)
        for part in (dataset.train, dataset.validation, dataset.test):
            assert np.bincount(part.labels, minlength=40).min() >= 1


def test_the_image_that_mends_a_class_can_only_go_back_to_train():
    ids, labels = image_ids([bytes([i]) for i in range(256)]), np.zeros(256, np.int32)
    whole = Split(np.zeros((256, 1, 1, 1), np.uint8), labels, ids)
    moved = 0
    for few in range(2, 12):
        start = few * 12
        small, large = (
            hold_out_test(Split(*(array[start : start + count] for array in whole)), "a set")
            for count in (few, few + 8)
        )
        assert not set(small[0].ids) & set(large[1].ids)
        moved += len(set(small[1].ids) & set(large[0].ids))
    assert moved > 0


# --- What is said before training.


def test_two_lines_say_what_was_read(tmp_path):
    notes = load_folder(write_classes(tmp_path / "set")).notes
    assert len(notes) == 2
    assert "4 classes (ant, bee, cat, dog), images of 8x8 pixels and 3 channels" in notes[0]
    assert str(tmp_path / "set") in notes[0]
    dataset = load_dataset("digits", image_size=10, validation="test")
    first, second = dataset.notes
    assert "10 classes (0, 1, 2, 3, 4, ...), images of 8x8 pixels, padded to 10x10" in first
    assert second == "1,438 images to train on, 359 to test on, none but these for validation"


def test_copies_in_several_parts_are_counted_and_one_is_named(tmp_path):
    root = tmp_path / "set"
    for seed, part in enumerate(("train", "val", "test")):
        write_classes(root / part, 10, seed=seed)
    for i in range(3):
        shutil.copy(root / f"train/bee/im00{i}.png", root / f"test/bee/copy{i}.png")
    shutil.copy(root / "train/cat/im007.png", root / "val/dog/copy.png")
    said = "\n".join(load_folder(root).notes)
    assert "3 of the 43 images of test are in train too" in said
    assert f"{root}/train/bee/im00" in said and f"{root}/test/bee/copy" in said
    assert "1 of the 41 images of validation is in train too" in said
    assert f"{root}/train/cat/im007.png and {root}/val/dog/copy.png" in said


def test_copies_in_arrays_are_named_by_their_numbers(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 1)).astype(np.uint8)
    labels = np.arange(40) % 2
    parts = {"x_train": images, "y_train": labels, "x_test": images[7:9], "y_test": labels[7:9]}
    np.savez(tmp_path / "a.npz", **parts)
    said = "\n".join(load_dataset(str(tmp_path / "a.npz"), validation="test").notes)
    assert "2 of the 2 images of test are in train too" in said
    assert "number 7 of train (class 1) and number 0 of test (class 1)" in said


def test_an_image_in_two_classes_is_named(tmp_path):
    root = write_classes(tmp_path / "set", count=10, names=("a", "b"))
    assert not any("several classes" in line for line in load_folder(root).notes)
    for name in ("im001.png", "im005.png"):
        shutil.copy(root / "a" / name, root / "b" / f"copy_{name}")
    (line,) = (line for line in load_folder(root).notes if "several classes" in line)
    assert line.startswith("2 images lie in several classes, such as ")
    assert f"{root}/a/im00" in line and f"{root}/b/copy_im00" in line


def test_a_part_that_is_copies_for_the_most_part_is_named(tmp_path):
    path = tmp_path / "a.npz"
    images = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 1)).astype(np.uint8)
    given = {"x_train": images, "y_train": np.arange(40) % 2}
    np.savez(path, **given, x_test=np.repeat(images[:1] // 2, 9, 0), y_test=np.zeros(9, int))
    notes = load_dataset(str(path)).notes
    assert "1 of the 9 images of test are different ones, the others copies" in notes
    assert not any("images of train are different" in line for line in notes)


def test_names_of_classes_are_all_shown_whatever_signs_they_hold(tmp_path):
    names = ("ant (red)", "bee (1 in all)", "cat, tame")
    root = write_classes(tmp_path / "set", count=10, names=names)
    assert "3 classes (ant (red), bee (1 in all), cat, tame)" in load_folder(root).notes[0]


def test_names_of_classes_that_differ_by_case_or_spaces_alone_are_named(tmp_path):
    x, y = np.arange(60 * 64, dtype=np.uint16) % 251, np.arange(60) % 4
    images = x.astype(np.uint8).reshape(60, 8, 8, 1)

    def notes(*names):
        said = Dataset.from_arrays(images, y, class_names=names).notes
        return [line for line in said if "nearly the same" in line]

    assert notes("cat", "Cat", "dog", "do g") == [
        "'cat', 'Cat' are 2 classes, though their names are nearly the same",
        "'dog', 'do g' are 2 classes, though their names are nearly the same",
    ]
    assert notes("cat", "cats", "dog", "dot") == []


def test_a_class_of_nine_tenths_is_pointed_out(tmp_path):
    write_classes(tmp_path / "set", 95, ("fine",), seed=1)
    write_classes(tmp_path / "set", 5, ("broken",), seed=2)
    dataset = load_folder(tmp_path / "set")
    share = 100 * np.mean(dataset.test.labels == 1)
    (line,) = [line for line in dataset.notes if "% of the training images" in line]
    assert "are of class fine" in line and f"right for {share:.1f} % of the test images" in line
    assert not [line for line in load_dataset("digits").notes if "training images are" in line]


# --- A run and its data.


def config_of(root, **changes):
    return {
        "mode": "scratch",
        "data.name": f"folder:{root}",
        "data.cache_dir": str(root.parent / "cache"),
        "data.batch_size": 16,
        "finetune.epochs": 4,
        "optimizer.learning_rate": 0.05,
        "num_devices": 1,
        "log.progress": False,
        "log.tensorboard": False,
        **changes,
    }


class Listener(QuietReporter):
    """Keeps what a run says, and stops it as `StopAt` does."""

    def __init__(self, stop_at=None):
        self.said, self._stop_at = [], stop_at

    def message(self, text):
        self.said.append(text)

    def begin_run(self, title, *, previous=()):
        self.said.append(title)

    def end_epoch(self, line):
        self.said.append("epoch")
        if line["epoch"] == self._stop_at:
            raise KeyboardInterrupt

    @property
    def text(self):
        return "\n".join(self.said)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A net that tells four classes apart: (its workdir, its images, its result, what was said)."""
    folder = tmp_path_factory.mktemp("trained")
    root, listener = write_classes(folder / "set"), Listener()
    result = run(config_of(root), folder / "run", reporter=listener)
    return folder / "run", root, result, listener


def evaluate(workdir, name=None, **changes):
    listener = Listener()
    config = {"mode": "evaluate", "log.progress": False, **changes}
    if name is not None:
        config |= {"data.name": str(name), "data.cache_dir": str(workdir.parent / "cache")}
    return run(config, workdir, reporter=listener), listener.text


def test_a_run_says_what_it_read_before_it_trains(trained):
    said = trained[3].said
    assert said.index("epoch") == 3
    assert "4 classes" in said[1] and "images to train on" in said[2]


def test_a_run_keeps_what_it_knows_of_its_data(trained):
    workdir, root, *_ = trained
    content = json.loads((workdir / "dataset.json").read_text())
    dataset = load_folder(root)
    assert content["class_names"] == list(NAMES)
    assert content["image_shape"] == [8, 8, 3]
    assert content["mean"] == list(dataset.preprocessing.mean)
    assert content["std"] == list(dataset.preprocessing.std)
    counts = {name: part["images"] for name, part in content["parts"].items()}
    assert counts == {name: len(getattr(dataset, name).labels) for name in counts}
    assert counts.keys() == {"train", "validation", "test"}
    assert Known.from_dict(content) == dataset.known()


def test_a_result_tells_each_class_and_what_the_commonest_would_give(trained):
    workdir, root, *_ = trained
    content = json.loads((workdir / "result.json").read_text())
    test = load_folder(root).test
    counts = np.bincount(test.labels, minlength=4)
    assert list(content["class_accuracy"]) == list(NAMES)
    by_class = np.array(list(content["class_accuracy"].values()))
    assert by_class @ counts / counts.sum() == pytest.approx(content["test_accuracy"])
    assert content["commonest_class"] == NAMES[counts.argmax()]
    assert content["commonest_class_accuracy"] == 100 * counts.max() / counts.sum()
    text = format_result(content)
    assert "by class" in text and f"bee {content['class_accuracy']['bee']:.1f}" in text
    assert f"by always answering {content['commonest_class']}" in text
    *others, last = read(workdir / "metrics.jsonl")
    assert last["class_accuracy"].keys() == set(NAMES)
    assert not [line for line in others if "class_accuracy" in line]


def test_a_net_is_evaluated_with_its_own_mean_and_standard_deviation(trained, tmp_path):
    """Darker images are darker to the net, too."""
    workdir, root, result, _ = trained
    dark = write_classes(tmp_path / "dark", light=0.3)
    found, said = evaluate(workdir, f"folder:{dark}")
    images = load_folder(dark, validation="test")
    part = Split(
        *(np.concatenate(arrays) for arrays in zip(images.train, images.test, strict=True))
    )
    inputs = normalize(part.images, load_folder(root).preprocessing)
    answers = np.argmax(result.network.apply(result.variables, inputs), -1)
    assert found.test_accuracy == pytest.approx(100 * np.mean(answers == part.labels))
    assert found.test_accuracy < 60 < result.test_accuracy
    assert f"evaluated on 160 images of {dark}: all that it has" in said
    assert f"trained on folder:{root}" in said
    assert found.dataset == f"folder:{dark}"


def test_classes_are_matched_by_name(trained, tmp_path):
    workdir = trained[0]
    other = write_classes(tmp_path / "other", 20, ("zebra", "bee", "cat", "dog"))
    found, said = evaluate(workdir, f"folder:{other}")
    assert found.test_accuracy == 100
    assert found.more["class_accuracy"] == {"bee": 100, "cat": 100, "dog": 100}
    assert "does not know zebra (20 images): left out" in said
    assert "no images of ant" in said
    (other / "zebra").rename(other / "ant")
    assert evaluate(workdir, f"folder:{other}")[0].test_accuracy == 100


def test_classes_in_another_order_are_matched_by_name(trained, tmp_path):
    workdir, root, _, _ = trained
    part = load_folder(root).test
    names = ("dog", "cat", "ant", "bee")
    labels = np.array([names.index(NAMES[label]) for label in part.labels])
    arrays = {"x_train": part.images, "y_train": labels, "class_names": np.array(names)}
    np.savez(tmp_path / "a.npz", **arrays)
    found, said = evaluate(workdir, tmp_path / "a.npz")
    assert found.test_accuracy == 100
    assert "another order" in said
    np.savez(tmp_path / "b.npz", **arrays | {"class_names": np.array(list("wxyz"))})
    with pytest.raises(UserError, match=r"has w, x, y, z; the net was trained on ant, bee, cat"):
        evaluate(workdir, tmp_path / "b.npz")


def test_a_set_that_lacks_classes_is_evaluated_on_the_others(trained, tmp_path):
    fewer = write_classes(tmp_path / "fewer", 20)
    shutil.rmtree(fewer / "bee")
    found, said = evaluate(trained[0], f"folder:{fewer}")
    assert found.test_accuracy == 100
    assert "bee" not in found.more["class_accuracy"]
    assert "no images of bee" in said


def test_without_data_keys_a_run_is_evaluated_on_its_own_data(trained):
    workdir, root, result, _ = trained
    for batch in (16, 100_000):
        found, said = evaluate(workdir, **{"data.batch_size": batch})
        assert found.test_accuracy == result.test_accuracy
        assert found.dataset == f"folder:{root}"
        assert f"evaluated on its own data, {root}" in said and "validation accuracy" in said
    assert found.more["validation_examples"] == result.more["validation_examples"]
    assert found.more["train_examples"] == result.more["train_examples"]


def test_its_own_data_under_another_spelling_are_still_its_own(trained):
    workdir, root, result, _ = trained
    found, said = evaluate(workdir, f"folder:{root}/../{root.name}/")
    assert "evaluated on its own data" in said
    assert found.test_accuracy == result.test_accuracy


def test_images_that_were_trained_on_are_counted(trained, tmp_path):
    workdir, root, result, _ = trained
    shutil.copytree(root, tmp_path / "copy")
    _, said = evaluate(workdir, f"folder:{tmp_path / 'copy'}")
    assert f"{result.more['train_examples']} of these images the net was trained on" in said


def test_the_test_part_of_another_set_is_evaluated_alone(trained, tmp_path):
    for part, light in (("train", 0.3), ("val", 0.3), ("test", 1.0)):
        write_classes(tmp_path / "set" / part, 10, light=light, seed=5)
    found, said = evaluate(trained[0], f"folder:{tmp_path / 'set'}")
    assert found.test_accuracy == 100
    assert "evaluated on 40 images" in said and "its test part" in said


def test_a_set_needs_no_training_part_to_be_evaluated(trained, tmp_path):
    workdir, root, result, _ = trained
    write_classes(tmp_path / "set" / "test", 10)
    found, said = evaluate(workdir, f"folder:{tmp_path / 'set'}")
    assert found.test_accuracy == 100 and "its test part" in said
    part = load_folder(root).test
    arrays = {"x_test": part.images, "y_test": part.labels, "class_names": np.array(NAMES)}
    np.savez(tmp_path / "a.npz", **arrays)
    assert evaluate(workdir, tmp_path / "a.npz")[0].test_accuracy == result.test_accuracy
    for name in (f"folder:{tmp_path / 'set'}", str(tmp_path / "a.npz")):
        with pytest.raises(UserError, match="nothing to train on"):
            load_dataset(name, cache_directory=str(tmp_path / "cache"))


def test_a_folder_of_one_class_can_be_evaluated(trained, tmp_path):
    write_classes(tmp_path / "set", 10)
    for name in NAMES[1:]:
        shutil.rmtree(tmp_path / "set" / name)
    found, said = evaluate(trained[0], f"folder:{tmp_path / 'set'}")
    assert found.more["class_accuracy"] == {"ant": 100}
    assert "no images of bee, cat, dog" in said


def test_keys_that_an_evaluation_cannot_change_are_named(trained):
    workdir, _, result, _ = trained
    found, said = evaluate(workdir, **{"data.validation": "test", "data.image_size": 4})
    assert "config.data.validation=test is passed over: the run's held-out stays" in said
    assert "config.data.image_size=4 is passed over" in said
    # Of an augmentation it took none, and ended with a traceback.
    more = {"data.augment": "crop_flip", "optimizer.ema": 0.5, "model.depths": (2, 2, 2)}
    _, said = evaluate(workdir, **more, **{"growth.interval": 2})
    assert "config.optimizer.ema=0.5 is passed over: the run's 0.0 stays" in said
    assert "config.model.depths=2-2-2 is passed over: the run's 1-1-1 stays" in said
    assert said.count("is passed over") == 2
    assert found.test_accuracy == result.test_accuracy


def test_larger_images_are_resized_as_the_runs_own_size_says(trained, tmp_path):
    large = write_classes(tmp_path / "large", 10, size=32)
    found, _ = evaluate(trained[0], f"folder:{large}")
    assert found.more["image_shape"] == (8, 8, 3)
    assert found.test_accuracy == 100


# --- Other images made such as a net takes.


def known_of(images, **changes):
    """What is known of a set of two classes."""
    labels = np.arange(len(images), dtype=np.int32) % 2
    part = Split(images, labels, image_ids(images))
    names, preprocessing = ("a", "b"), Preprocessing((0.5,) * 3, (1.0,) * 3, 0, False)
    return Dataset("x", part, part, part, 2, names, preprocessing, "test", **changes).known()


def npz(path, images):
    np.savez(path, x_train=images, y_train=np.arange(len(images)) % 2, class_names=["a", "b"])
    return str(path)


RANDOM = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3)).astype(np.uint8)


def test_grey_images_become_colour_ones_and_the_reverse(tmp_path):
    grey = RANDOM[..., :1]
    found = load_other(npz(tmp_path / "grey.npz", grey), known_of(RANDOM))
    assert np.array_equal(found.test.images, np.repeat(grey, 3, -1))
    assert "all three channels are alike" in "".join(found.notes)
    found = load_other(npz(tmp_path / "colour.npz", RANDOM), known_of(grey))
    pillow = [np.asarray(Image.fromarray(image).convert("L")) for image in RANDOM]
    assert np.abs(found.test.images[..., 0].astype(int) - np.array(pillow)).max() <= 1
    assert "only their brightness" in "".join(found.notes)


def test_images_are_padded_as_the_runs_were(tmp_path):
    padded = known_of(np.zeros((4, 12, 12, 3), np.uint8), source_size=(8, 8))
    found = load_other(npz(tmp_path / "a.npz", RANDOM), padded)
    assert np.array_equal(found.test.images[:, 2:10, 2:10], RANDOM)
    assert found.image_shape == (12, 12, 3)


@pytest.mark.parametrize(
    "shape, message",
    [
        ((4, 8, 6, 3), r"images of 8x8 pixels, but the net was trained on 8x6"),
        ((4, 12, 12, 3), r"images of 8x8 pixels, but the net was trained on 12x12"),
        ((4, 8, 8, 4), r"images of 3 channels, but the net was trained on images of 4"),
    ],
)
def test_images_that_cannot_be_made_alike_are_refused(tmp_path, shape, message):
    with pytest.raises(UserError, match=message):
        load_other(npz(tmp_path / "a.npz", RANDOM), known_of(np.zeros(shape, np.uint8)))


def test_smaller_images_are_not_padded_as_if_they_were_of_the_runs_size(tmp_path):
    """They would show things smaller than the net knows them."""
    padded = known_of(np.zeros((4, 12, 12, 3), np.uint8), source_size=(10, 10))
    with pytest.raises(UserError, match=r"images of 8x8 pixels.* 12x12, padded from 10x10"):
        load_other(npz(tmp_path / "a.npz", RANDOM), padded)


def test_a_file_is_seen_alike_by_predict_and_evaluate_on_a_net_whose_images_were_padded(trained):
    """Also one of the size that they were padded to."""
    loaded, images = load(trained[0]), known_of(np.zeros((4, 12, 12, 3), np.uint8)).image_shape
    known = dataclasses.replace(loaded.known, image_shape=images, source_size=(8, 8))
    net, folder = dataclasses.replace(loaded, known=known), trained[0].parent / "twelve"
    for size in (10, 12, 16):
        write_classes(folder / str(size), 1, size=size)
        found = load_other(f"folder:{folder / str(size)}", known, cache_directory=str(folder))
        files = sorted((folder / str(size)).rglob("*.png"))
        assert np.array_equal(found.test.images, [net.read(path) for path in files])
        assert not found.test.images[:, 0].any()  # Padded.


def test_the_layout_of_a_runs_own_folder_is_not_that_of_others(trained, tmp_path):
    """A run on parts, evaluated on plain folders of classes."""
    for part in ("train", "test"):
        write_classes(tmp_path / "set" / part, 12)
    config = config_of(tmp_path / "set", **{"data.layout": "parts", "finetune.epochs": 1})
    run(config, tmp_path / "run", reporter=QuietReporter())
    _, said = evaluate(tmp_path / "run", f"folder:{trained[1]}")
    assert "evaluated on 160 images" in said and "all that it has" in said
    assert "evaluated on its own data" in evaluate(tmp_path / "run")[1]


# --- Data that change.


def go_on(workdir, reporter=None, **changes):
    """Begins a run in `workdir` on the images beside it, or goes on with it."""
    config = config_of(workdir.parent / "set", **changes)
    config |= {"data.name": "folder:set", "data.dir": str(workdir.parent)}
    return run(config, workdir, reporter=reporter or QuietReporter())


@pytest.fixture(scope="module")
def _stopped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopped")
    write_classes(folder / "set", 20)
    with pytest.raises(KeyboardInterrupt):
        go_on(folder / "run", StopAt(1))
    return folder


@pytest.fixture
def stopped(_stopped, tmp_path):
    """A run that was stopped in its second epoch: (its workdir, its images)."""
    shutil.copytree(_stopped, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["data"]["dir"] = str(tmp_path)
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    return tmp_path / "run", tmp_path / "set"


def _add(root):
    write_classes(root, 12, stem="new", seed=7)


def _replace(root):
    write_classes(root, 20, seed=8)


def _rename(root):
    (root / "ant").rename(root / "ape")


def _take_class(root):
    shutil.rmtree(root / "ant")


@pytest.mark.parametrize(
    "change, message",
    [
        (_add, r"train: \d+ -> \d+ images"),
        (_replace, r"train: \d+ (images, but others|-> \d+ images)"),
        (_rename, r"classes: without ant, with ape"),
        (_take_class, r"classes: without ant"),
    ],
)
def test_a_run_does_not_go_on_with_other_data(stopped, change, message):
    workdir, root = stopped
    before = (workdir / "dataset.json").read_bytes()
    change(root)
    with pytest.raises(UserError, match=message) as error:
        go_on(workdir)
    assert ("allow_changes=True" in str(error.value)) == (change is not _take_class)
    assert (workdir / "dataset.json").read_bytes() == before


def test_a_key_lets_a_run_go_on_with_other_data_and_its_own_mean(stopped):
    workdir, root = stopped
    began = Known.from_dict(json.loads((workdir / "dataset.json").read_text()))
    _add(root)
    result = go_on(workdir, **{"data.allow_changes": True})
    now = Known.from_dict(json.loads((workdir / "dataset.json").read_text()))
    assert result.epochs == 4
    assert now.parts["train"].images > began.parts["train"].images
    assert (now.mean, now.std) == (began.mean, began.std)
    assert result.more["mean"] == began.mean


def test_what_was_trained_on_before_the_data_changed_stays_known(stopped, tmp_path):
    workdir, root = stopped
    before, old = np.load(workdir / "train_ids.npy"), tmp_path / "old"
    shutil.copytree(root, old)
    shutil.rmtree(root)
    write_classes(root, 20, seed=8)
    listener = Listener()
    go_on(workdir, listener, **{"data.allow_changes": True})
    assert "they changed since the run began: train: " in listener.text
    assert set(before) < set(np.load(workdir / "train_ids.npy"))
    said = evaluate(workdir, f"folder:{old}")[1]
    assert f"{len(before)} of these images the net was trained on" in said


def test_after_a_change_that_was_allowed_the_next_start_needs_no_leave(stopped):
    """Its mean is that of before, which is no change; what it was trained on stays known."""
    workdir, root = stopped
    before = np.load(workdir / "train_ids.npy")
    shutil.rmtree(root)
    write_classes(root, 20, seed=8, stem="other")
    with pytest.raises(KeyboardInterrupt):
        go_on(workdir, StopAt(2), **{"data.allow_changes": True})
    go_on(workdir, listener := Listener())
    assert "changed" not in listener.text
    assert set(before) < set(np.load(workdir / "train_ids.npy"))
    assert "changed" not in evaluate(workdir)[1]


def test_copies_among_what_was_trained_on_are_no_damage(tmp_path):
    """Of a run that goes on from the net of another on images that it knows."""
    folder = write_classes(tmp_path / "set", 20) / "ant"
    for image in list(folder.iterdir()):
        shutil.copy(image, folder / f"copy of {image.name}")
    dataset = load_folder(tmp_path / "set")
    one, other = Workdir(tmp_path / "one"), Workdir(tmp_path / "other")
    for workdir, origin in ((one, None), (other, one)):
        workdir.root.mkdir()
        keep_known(workdir, dataset, False, origin)
    assert len(np.load(other.train_ids)) == len(dataset.train.ids) > len(set(dataset.train.ids))
    same = dataclasses.replace(dataset, test=dataset.train)
    (said,) = _describe_overlap(other, same, dataset.known())
    assert said == f"{len(dataset.train.ids)} of these images the net was trained on"


@pytest.mark.parametrize("names", [("bee", "ant"), ("ant", "yak")])
def test_no_class_gets_the_output_of_another(stopped, names):
    """`ant`, the first, becomes the last: outputs are known by their places."""
    workdir, root = stopped
    if names[0] == "bee":  # The two change their places.
        (root / "ant").rename(root / "x")
        (root / "bee").rename(root / "ant")
        (root / "x").rename(root / "bee")
        known = json.loads((workdir / "dataset.json").read_text())
        known["class_names"][:2] = names
        (workdir / "dataset.json").write_text(json.dumps(known))
    else:
        (root / "ant").rename(root / "yak")
    with pytest.raises(UserError, match=r"classes: ") as error:
        go_on(workdir, **{"data.allow_changes": True})
    assert "allow_changes=True" not in str(error.value)


def test_a_run_of_before_goes_on_and_takes_its_data_for_its_own(stopped):
    workdir, _ = stopped
    for name in ("dataset.json", "train_ids.npy"):
        (workdir / name).unlink()
    found, said = evaluate(workdir)
    assert found.epochs == 1 and "evaluated on its own data" in said
    assert "train_ids.npy is not there, so nobody knows whether the net was trained on" in said
    again = StopAt(None)
    go_on(workdir, again)
    assert again.resumed_after == 1
    assert (workdir / "dataset.json").exists()


def test_a_damaged_file_of_the_data_is_named(stopped):
    workdir, _ = stopped
    (workdir / "dataset.json").write_text('{"name": 3}')
    with pytest.raises(UserError, match=r"dataset\.json is damaged.*delete it"):
        go_on(workdir)


@pytest.mark.parametrize("change", [lambda ids: ids[:-1], lambda ids: ids[:0]])
def test_evaluation_notices_that_ids_of_what_was_trained_on_are_missing(stopped, change):
    workdir, _ = stopped
    ids = np.load(workdir / "train_ids.npy")
    np.save(workdir / "train_ids.npy", change(ids))
    with pytest.raises(UserError, match=r"train_ids\.npy is damaged.*nobody knows"):
        evaluate(workdir)


def test_evaluation_says_that_the_data_changed(stopped):
    workdir, root = stopped
    _add(root)
    _, said = evaluate(workdir)
    assert "they changed since it was trained: train: " in said


def test_what_differs_is_listed():
    one = known_of(RANDOM)
    other = known_of(RANDOM[:, :4])
    assert list_changes(one, known_of(RANDOM)) == []
    assert list_changes(one, other)[0] == "images: 8x8x3 -> 4x8x3, height x width x channels"
    swapped = known_of(RANDOM[[1, 0, 2, 3, 4, 5]])
    assert list_changes(one, swapped) == [
        f"{part}: 6 images, but others, or in another order"
        for part in ("train", "validation", "test")
    ]
