"""Streams of sets that TFDS prepared as ArrayRecord files, written here by TFDS itself."""

import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autogrow_jax import build
from autogrow_jax.config import default_config
from autogrow_jax.data.dataset import Choices
from autogrow_jax.errors import UserError
from autogrow_jax.files import image_ids
from autogrow_jax.stream import is_streamed, load_stream, read_batches
from autogrow_jax.stream import load as stream_load
from autogrow_jax.stream.records import Records
from benchmarks.photographs import pack

pytest.importorskip("grain")

CLASSES = ("blue", "green", "red")
COUNTS = {"train": 75, "val": 27, "test": 12}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root, draw = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for part, count in COUNTS.items():
        for number in range(count):
            pixels = draw.integers(0, 256, (*draw.integers(20, 60, 2), 3), np.uint8)
            pixels[..., 2 - number % 3] //= 2
            folder = root / part / CLASSES[number % 3]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{number}.JPEG", quality=40)
    return root


@pytest.fixture(scope="module")
def prepared(tree, tmp_path_factory):
    """TFDS's folder, with the set in it."""
    folder = tmp_path_factory.mktemp("tensorflow_datasets")
    pack(tree, folder, shards=3)
    return folder


def read(prepared, how=Choices("test"), **changes):  # noqa: B008  It is a tuple.
    changes = {"directory": str(prepared), "workers": 0} | changes
    return load_stream("tfds:photographs", 16, how, **changes)


def test_images_of_records_are_those_of_their_files(tree, prepared):
    dataset, folder = read(prepared), load_stream(f"folder:{tree}", 16, workers=0)
    assert dataset.class_names == folder.class_names == CLASSES
    # The test part is not labelled.
    assert len(dataset.train.labels) == 75 and dataset.validation is dataset.test
    assert len(dataset.test.labels) == 27 and dataset.train.images.random
    paths = {image_ids([path.read_bytes()])[0]: path for path in tree.glob("*/*/*")}
    for part in (dataset.train, dataset.test):
        found = [paths[id] for id in part.ids]
        assert len(set(found)) == len(found)
        assert [CLASSES.index(path.parent.name) for path in found] == part.labels.tolist()
    of_files = dict(zip(folder.files["validation"], folder.validation.images[:], strict=True))
    for id, pixels in zip(dataset.test.ids, dataset.test.images[:], strict=True):
        assert np.array_equal(pixels, of_files[str(paths[id])])


def test_an_epoch_trains_on_boxes_drawn_by_epoch_and_image(prepared):
    images = read(prepared).train.images
    rows = np.random.default_rng(1).permutation(75)
    whole = np.concatenate([*read_batches(images, rows, 32, b"epoch 0")])
    late = np.concatenate([*read_batches(images, rows[40:], 16, b"epoch 0")])
    assert np.array_equal(late, whole[40:])
    other = np.concatenate([*read_batches(images, rows, 32, b"epoch 1")])
    assert not np.array_equal(other, whole)


def test_parts_are_held_out_by_what_is_in_an_image(prepared):
    dataset = read(prepared, Choices("0.2", seed=3))
    sizes = {name: len(part.labels) for name, part in dataset.parts.items()}
    # The set has no labelled test part, and its validation part is passed over.
    assert sizes["train"] + sizes["validation"] + sizes["test"] == 75
    assert 5 < sizes["test"] < 27 and 5 < sizes["validation"] < 27
    some = read(prepared, Choices("0.2", seed=3), classes="red,green")
    assert some.class_names == ("green", "red")
    assert set(some.test.ids) == set(dataset.test.ids[dataset.test.labels > 0])


def test_all_records_are_read_once_and_their_labels_kept(prepared, monkeypatch, tmp_path):
    kept = {"cache_directory": str(tmp_path)}
    known = read(prepared, **kept).known()
    monkeypatch.setattr(Records, "_look_at_piece", lambda *_: pytest.fail("read again"))
    assert read(prepared, **kept, workers=3).known() == known
    for path in tmp_path.glob("*train*/*_ids.npy"):
        path.write_bytes(b"damaged")
    with pytest.raises(
        UserError, match=r"labels kept in .*labels-photographs-train.* damaged .*delete that"
    ):
        read(prepared, **kept)


def test_damaged_and_lost_records_are_named(prepared, tmp_path):
    copied = Path(shutil.copytree(prepared, tmp_path / "copied"))
    images = read(copied).train.images
    # As another process gets it, which opens the files anew.
    fresh = pickle.dumps(images)
    file = sorted(copied.glob("photographs/1.0.0/*train*"))[1]
    content = file.read_bytes()
    file.write_bytes(content[:9_000] + b"damaged" + content[9_007:])
    named = rf"{file.name}, record \d+: cannot be read"
    with pytest.raises(UserError, match=rf"{named} \(.*hash mismatch"):
        list(read_batches(pickle.loads(fresh), np.arange(75), 32))
    with pytest.raises(UserError, match=rf"{named} .* prepare the set again"):
        read(copied)
    file.unlink()
    with pytest.raises(UserError, match=rf"{named} \(.*No such file"):
        list(read_batches(pickle.loads(fresh), np.arange(75), 32))


def test_large_sets_are_streamed_unless_it_is_refused(prepared, monkeypatch):
    asked = "auto", "tfds:photographs", str(prepared), 16
    assert not is_streamed(*asked)
    # All 114 count, as labels are not known yet.
    monkeypatch.setattr(stream_load, "LARGE", 113 * 16 * 16 * 3)
    assert is_streamed(*asked)
    assert not is_streamed("no", *asked[1:])
    assert not is_streamed(*asked[:3], 0)


def test_a_set_that_has_no_random_access_is_refused(prepared, tmp_path):
    copied = Path(shutil.copytree(prepared, tmp_path / "copied"))
    info = copied / "photographs" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(
        UserError, match=r"tfds convert_format --dataset_version_dir=.*1\.0\.0 --out"
    ):
        read(copied)


def test_a_config_names_the_set(prepared):
    config = default_config()
    config.data.update(name="tfds:photographs", dir=str(prepared), stream="yes", image_size=16)
    config.data.update(workers=0, validation="test")
    dataset = build.load_data(build.resolve(config), to_train=False)
    assert dataset.known() == read(prepared).known()
    assert any(line.startswith("read as a stream") for line in dataset.notes)


@pytest.mark.slow
def test_what_is_read_from_records_depends_on_no_number_of_workers(prepared):
    images, rows = read(prepared).train.images, np.random.default_rng(1).permutation(75)
    whole = np.concatenate([*read_batches(images, rows, 32, b"epoch 0")])
    workers = replace(images, workers=2)
    assert np.array_equal(np.concatenate([*read_batches(workers, rows, 16, b"epoch 0")]), whole)
