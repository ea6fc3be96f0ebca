"""Sources that are decoded once and kept as arrays: image folders, and TFDS through a stand-in."""

import numpy as np
import pytest
from PIL import Image

from autogrow_jax.data import load_dataset, load_other, tfds_source
from autogrow_jax.errors import UserError
from autogrow_jax.files import folder


def picture(seed, size=(12, 10), grey=False):
    shape = size if grey else (*size, 3)
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def write_images(root, count=5, classes=("cat", "dog"), suffix=".png", **kind):
    """`count` images a class; returns {class: [pixels]} in the order of the file names."""
    written = {}
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        written[name] = [picture(100 * label + i, **kind) for i in range(count)]
        for i, pixels in enumerate(written[name]):
            Image.fromarray(pixels).save(root / name / f"{i}{suffix}")
    return written


def load_folder(root, **settings):
    return load_dataset(f"folder:{root}", cache_directory=str(root.parent / "cache"), **settings)


def test_folder_with_parts(tmp_path):
    root = tmp_path / "pets"
    written = {part: write_images(root / part) for part in ("train", "val", "test")}
    write_images(root / "train", count=1, classes=(".hidden",))
    (root / "train" / "cat" / "Thumbs.db").write_text("no image")
    dataset = load_folder(root)
    assert dataset.class_names == ("cat", "dog")
    assert isinstance(dataset.train.images, np.memmap)
    splits = {"train": dataset.train, "val": dataset.validation, "test": dataset.test}
    for part, split in splits.items():
        assert np.array_equal(split.images, written[part]["cat"] + written[part]["dog"])
        assert split.labels.tolist() == [0] * 5 + [1] * 5


def test_folder_without_parts_is_divided(tmp_path):
    written = write_images(tmp_path / "pets", count=10)
    dataset = load_folder(tmp_path / "pets")
    splits = (dataset.train, dataset.validation, dataset.test)
    found = {bytes(i): int(y) for s in splits for i, y in zip(s.images, s.labels, strict=True)}
    assert found == {bytes(i): y for y, name in enumerate(written) for i in written[name]}
    counts = [np.bincount(split.labels) for split in splits]
    assert [len(count) for count in counts] == [2, 2, 2] and np.min(counts) >= 1
    assert counts[0].sum() > counts[2].sum() >= 2


def test_a_folder_is_decoded_once_until_it_changes(tmp_path, monkeypatch):
    root = tmp_path / "pets"
    write_images(root)
    decoded = []
    monkeypatch.setattr(
        folder,
        "decode_image",
        lambda *a, decode=folder.decode_image: decoded.append(a) or decode(*a),
    )
    first = load_folder(root)
    assert len(decoded) == 10
    again = load_folder(root)
    assert len(decoded) == 10
    assert np.array_equal(first.train.images, again.train.images)
    load_folder(root, image_size=8)
    assert len(decoded) == 20
    Image.fromarray(picture(999)).save(root / "cat" / "new.png")
    load_folder(root)
    assert len(decoded) == 31
    Image.fromarray(picture(998)).save(root / "cat" / "new.png")  # the same names, another content
    load_folder(root)
    assert len(decoded) == 42
    assert not list((tmp_path / "cache").glob(".partial*"))


def test_grey_only_where_all_are_grey(tmp_path):
    grey, mixed = tmp_path / "grey", tmp_path / "mixed"
    for root in (grey, mixed):
        write_images(root, grey=True)
    Image.fromarray(picture(7)).convert("P").save(mixed / "cat" / "9.png", transparency=b"\0\1")
    assert load_folder(grey).image_shape == (12, 10, 1)
    assert load_folder(mixed).image_shape == (12, 10, 3)


def test_resizing_keeps_the_centre(tmp_path):
    # White above a black square above white: the centre crop holds the black square alone.
    pixels = np.full((30, 10, 3), 255, np.uint8)
    pixels[8:22] = 0
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i, image in enumerate((pixels, pixels.transpose(1, 0, 2)) * 2):
            Image.fromarray(np.ascontiguousarray(image)).save(tmp_path / f"pets/{name}/{i}.png")
    with pytest.raises(UserError, match=r"30x10.*10x30"):
        load_folder(tmp_path / "pets")
    # One of another colour, as a set of equal images is refused.
    Image.fromarray(np.full((10, 10, 3), 9, np.uint8)).save(tmp_path / "pets/cat/9.png")
    dataset = load_folder(tmp_path / "pets", image_size=5, validation="test")
    assert dataset.image_shape == (5, 5, 3)
    assert set(np.unique([*dataset.train.images, *dataset.test.images])) == {0, 9}


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda root: (root / "train" / "eel").mkdir(), "eel: no image in it"),
        (lambda root: write_images(root / "val", classes=("eel",)), "eel: no class of that name"),
        (lambda root: write_images(root / "valid"), "both val/ and valid/"),
        (lambda root: (root / "test").mkdir(), "test: no class folder"),
        (lambda root: (root / "train/cat/0.png").write_bytes(b"x"), "0.png: not readable"),
        (
            lambda root: (root / "train/cat/0.png").write_bytes(
                (root / "train/cat/0.png").read_bytes()[:200]
            ),
            "0.png: not readable",
        ),
        (
            lambda root: Image.fromarray(np.zeros((12, 10), np.uint16)).save(
                root / "train/cat/0.png"
            ),
            "0.png: more than 8 bits",
        ),
    ],
)
def test_a_malformed_folder_is_named(tmp_path, spoil, message):
    root = tmp_path / "pets"
    for part in ("train", "val"):
        write_images(root / part)
    spoil(root)
    with pytest.raises(UserError, match=message):
        load_folder(root)
    # What failed leaves nothing behind that a later run could take for the set.
    assert not list((tmp_path / "cache").glob("*")) and not list(tmp_path.glob("cache/.*"))


def test_one_class_is_refused(tmp_path):
    write_images(tmp_path / "pets", classes=("cat",))
    with pytest.raises(UserError, match="1 class folder"):
        load_folder(tmp_path / "pets")


def test_a_damaged_cache_says_what_to_delete(tmp_path):
    write_images(tmp_path / "pets")
    load_folder(tmp_path / "pets")
    (entry,) = (tmp_path / "cache").iterdir()
    (entry / "train_images.npy").write_bytes(b"damaged")
    with pytest.raises(UserError, match="delete that folder") as error:
        load_folder(tmp_path / "pets")
    assert str(entry) in str(error.value)


# --- TFDS ---------------------------------------------------------------------------------------


class Label:
    names = ("cat", "dog")


class Builder:
    """What of a TFDS builder is used, over examples held in memory."""

    version = "1.2.3"
    data_path = "somewhere"

    def __init__(self, parts, features=None, keys=("image", "label"), prepared=True):
        self.parts, self.prepared, self.info = parts, prepared, self
        self.features = features or {"image": None, "label": Label()}
        self.supervised_keys, self.splits = keys, list(parts)

    def is_prepared(self):
        return self.prepared

    def as_data_source(self, part):
        return self.parts[part]


def examples(count, label=None, **kind):
    return [
        {"image": picture(i, **kind), "label": i % 2 if label is None else label}
        for i in range(count)
    ]


@pytest.fixture
def use(monkeypatch, tmp_path):
    """use(builder, ...): loads it as "tfds:pets"; use(None): from the cache, TFDS out of reach."""

    def use(builder, name="tfds:pets", **settings):
        def load_builder(*_):
            assert builder is not None, "TFDS was asked"
            return builder

        monkeypatch.setattr(tfds_source, "_load_builder", load_builder)
        return load_dataset(name, cache_directory=str(tmp_path / "cache"), **settings)

    return use


def test_tfds_parts_and_cache(use):
    parts = {"train": examples(10), "validation": examples(4), "extra": examples(3)}
    dataset = use(Builder(parts | {"test": examples(6)}))
    for split, part in ((dataset.train, "train"), (dataset.validation, "validation")):
        assert np.array_equal(split.images, [example["image"] for example in parts[part]])
        assert split.labels.tolist() == [example["label"] for example in parts[part]]
    assert dataset.class_names == Label.names
    again = use(None)
    assert np.array_equal(again.train.images, dataset.train.images)
    assert again.class_names == dataset.class_names


def all_bytes(dataset):
    parts = (dataset.train, dataset.validation, dataset.test)
    return [image.tobytes() for part in parts for image in part.images]


def test_tfds_unlabelled_test_part_is_not_used(use):
    train, unlabelled = examples(20), examples(6, label=-1)
    dataset = use(Builder({"train": train, "test": unlabelled}))
    assert sorted(all_bytes(dataset)) == sorted(example["image"].tobytes() for example in train)


def test_tfds_resizes(use):
    mixed = examples(10) + examples(10, size=(20, 30))
    with pytest.raises(UserError, match="images differ in shape"):
        use(Builder({"train": mixed}))
    assert use(Builder({"train": mixed}), image_size=6).image_shape == (6, 6, 3)


def test_tfds_serves_an_official_set_with_the_papers_preprocessing(use):
    rows = [
        {"image": picture(i, (28, 28), grey=True)[..., None], "label": i % 10} for i in range(40)
    ]
    builder = Builder({"train": rows, "test": rows[:20]})
    builder.features = {"image": None, "label": type("Digits", (), {"names": "0123456789"})()}
    dataset = use(builder, "fashion_mnist", validation="test")
    assert dataset.image_shape == (32, 32, 1)
    assert dataset.class_names[9] == "Ankle boot"
    assert (dataset.preprocessing.mean, dataset.preprocessing.flip) == ((0.0,), True)


def test_a_tfds_set_of_another_directory_is_another_set(use, tmp_path):
    """Such as one that its owner prepared anew, under the same name."""
    one, other = (str(tmp_path / name) for name in ("one", "other"))
    first = use(Builder({"train": examples(10)}), directory=one)
    second = use(Builder({"train": examples(16)}), directory=other)
    sizes = [sum(part.images for part in each.known().parts.values()) for each in (first, second)]
    assert sizes == [10, 16]
    again = use(None, directory=one)
    assert np.array_equal(again.train.images, first.train.images)


def test_a_tfds_set_needs_no_training_part_to_be_evaluated(use, tmp_path):
    known, builder = use(Builder({"train": examples(10)})).known(), Builder({"test": examples(4)})
    with pytest.raises(UserError, match="nothing to train on"):
        use(builder, "tfds:cats")
    found = load_other("tfds:cats", known, cache_directory=str(tmp_path / "cache"))
    assert len(found.test.labels) == 4


@pytest.mark.parametrize(
    "builder, message",
    [
        (Builder({"test": examples(4)}), "nothing to train on"),
        (Builder({"extra": examples(4)}), "has the parts extra, none of which is labelled"),
        (Builder({"train": examples(4)}, keys=None), "not for image classification"),
        (Builder({"train": examples(4)}, {"image": None, "label": None}), "not for image class"),
        (Builder({"train": [{"image": np.zeros(3), "label": 0}]}), "expected uint8 .H, W, C."),
    ],
)
def test_unsuitable_tfds_sets_are_refused(use, builder, message):
    with pytest.raises(UserError, match=message):
        use(builder)


def test_without_tensorflow_the_way_out_is_named(use, monkeypatch, tmp_path):
    monkeypatch.setattr(tfds_source, "_has_tensorflow", lambda: False)
    with pytest.raises(UserError, match=r"pip install 'autogrow_jax\[tfds\]'") as error:
        use(Builder({}, prepared=False), "svhn", directory=str(tmp_path))
    for part in ("train_32x32.mat (182,040,794 bytes)", str(tmp_path / "svhn")):
        assert part in str(error.value)
