"""The readers of official files, on files written here in the official formats."""

# pickle's pure-Python pickler, which the Python 2 writer below builds on, has no type stubs.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

import gzip
import io
import os
import pickle
import struct
import tarfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import scipy.io

from autogrow_jax.data import load_dataset
from autogrow_jax.data.cifar import load_arrays
from autogrow_jax.data.idx import read_idx_folder
from autogrow_jax.data.official import search_folders
from autogrow_jax.errors import UserError

SHARED = Path(__file__).parents[2] / "shared" / "data"
REAL_DATA = Path(os.environ.get("AUTOGROW_DATA_DIR") or SHARED)


def examples(num_images, shape, num_classes, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(num_images) % num_classes
    return rng.integers(0, 256, (num_images, *shape)).astype(np.uint8), labels


# --- MNIST and FashionMNIST ---------------------------------------------------------------------


def idx_bytes(array):
    return (
        bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + bytes(array)
    )


def write_idx(folder, suffix=".gz", train=20, test=10, stems="idx"):
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for prefix, count in (("train", train), ("t10k", test)):
        images, labels = examples(count, (28, 28), 10, seed=count)
        written[prefix] = images, labels
        for kind, array in (("images-idx3", images), ("labels-idx1", labels.astype(np.uint8))):
            data = idx_bytes(np.ascontiguousarray(array))
            path = folder / f"{prefix}-{kind}-ubyte{suffix}"
            path.write_bytes(gzip.compress(data) if suffix else data)
    return written


def test_idx_files_are_unpacked_by_content_and_not_by_name(tmp_path):
    written = write_idx(tmp_path / "mnist", "")
    for path in (tmp_path / "mnist").iterdir():
        packed = gzip.compress(path.read_bytes())
        if "images" in path.name:  # As a browser that unpacks and keeps the name.
            path.rename(path.with_name(f"{path.name}.gz"))
        else:
            path.write_bytes(packed)
    dataset = load_dataset("mnist", directory=str(tmp_path), validation="test")
    images, labels = written["train"]
    np.testing.assert_array_equal(dataset.train.images[:, 2:30, 2:30, 0], images)
    np.testing.assert_array_equal(dataset.train.labels, labels)


@pytest.mark.parametrize("name, other", [("mnist", "fashion_mnist"), ("fashion_mnist", "mnist")])
def test_the_files_of_another_set_are_recognised(tmp_path, name, other):
    """By the real first image, of which the real files are needed."""
    real = next((f for f in search_folders(other, str(REAL_DATA)) if f.is_dir()), None)
    if real is None or read_idx_folder(real, ("0",) * 10) is None:
        pytest.skip("the real files are not here")
    (tmp_path / name).symlink_to(real)
    with pytest.raises(UserError, match=f"holds the files of {other}, not of {name}"):
        load_dataset(name, directory=str(tmp_path))


@pytest.mark.parametrize("folder", ["", "mnist", "MNIST/raw"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist_is_padded_to_32_and_otherwise_untouched(tmp_path, folder, suffix):
    written = write_idx(tmp_path / folder, suffix)
    dataset = load_dataset("mnist", directory=str(tmp_path), validation="test")
    assert dataset.image_shape == (32, 32, 1)
    for split, prefix in ((dataset.train, "train"), (dataset.test, "t10k")):
        images, labels = written[prefix]
        assert np.array_equal(split.images[:, 2:30, 2:30, 0], images)
        assert split.images.sum(dtype=np.int64) == images.sum(dtype=np.int64)  # zeros around
        assert np.array_equal(split.labels, labels)
        assert split.labels.dtype == np.int32
    unpadded = load_dataset("mnist", directory=str(tmp_path), image_size=28)
    assert unpadded.image_shape == (28, 28, 1)


def test_mnist_and_fashion_mnist_are_not_mixed_up(tmp_path):
    mnist = write_idx(tmp_path / "mnist", train=20)
    fashion = write_idx(tmp_path / "fashion_mnist", train=30)
    for name, written in (("mnist", mnist), ("fashion_mnist", fashion)):
        dataset = load_dataset(name, directory=str(tmp_path), validation="test")
        assert len(dataset.train.labels) == len(written["train"][1])
    assert load_dataset("fashion_mnist", directory=str(tmp_path)).preprocessing.flip
    with pytest.raises(UserError, match="no such folder"):
        load_dataset("fashion_mnist", directory=str(tmp_path / "mnist"))


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda data: data[: len(data) // 2], "cut short"),
        (lambda data: b"PK" + data[2:], "cannot be unpacked"),
        (
            lambda data: gzip.compress(b"\0\0\x0d\3" + gzip.decompress(data)[4:]),
            "expected 00000803",
        ),
        (lambda data: gzip.compress(gzip.decompress(data)[:-5]), "15675 follow"),
        (lambda data: gzip.compress(idx_bytes(np.ones((20, 27, 28), np.uint8))), "expected 28x28"),
        (
            lambda data: gzip.compress(idx_bytes(np.ones((19, 28, 28), np.uint8))),
            "19 images but 20",
        ),
    ],
)
def test_a_damaged_idx_file_is_named(tmp_path, damage, message):
    write_idx(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=message) as error:
        load_dataset("mnist", directory=str(tmp_path))
    assert str(path) in str(error.value)


def test_a_missing_idx_file_is_named(tmp_path):
    write_idx(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UserError, match=r"lacks t10k-labels-idx1-ubyte\.gz"):
        load_dataset("mnist", directory=str(tmp_path))


# --- CIFAR --------------------------------------------------------------------------------------


class Python2Pickler(pickle._Pickler):
    """Writes byte strings as Python 2 wrote its `str`, as in the official files."""

    dispatch: ClassVar[dict] = dict(pickle._Pickler.dispatch)

    def save_string(self, value):
        data = value if isinstance(value, bytes) else value.encode()
        self.write(b"T" + struct.pack("<i", len(data)) + data)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = save_string


def python2_pickle(value):
    stream = io.BytesIO()
    Python2Pickler(stream, 2).dump(value)
    return stream.getvalue().replace(b"numpy._core", b"numpy.core")


def cifar_files(num_classes, version, train_batches):
    """File contents by name, and the train and test images and labels they hold."""
    files, content = {}, []
    names = [f"data_batch_{i + 1}" for i in range(train_batches)] + ["test_batch"]
    if num_classes == 100:
        names = ["train", "test"]
    for seed, name in enumerate(names):
        images, labels = examples(num_classes, (32, 32, 3), num_classes, seed)
        content.append((images, labels))
        pixels = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        if version == "binary":
            columns = [labels[:, None] // 5, labels[:, None]][-1 if num_classes == 10 else 0 :]
            records = np.concatenate([*columns, pixels], 1).astype(np.uint8)
            files[f"{name}.bin"] = records.tobytes()
        else:
            key = "labels" if num_classes == 10 else "fine_labels"
            batch = {"data": pixels, key: labels.tolist(), "filenames": ["a.png"] * len(labels)}
            files[name] = python2_pickle(batch)
    return files, content[:-1], content[-1]


def write_cifar(root, files, num_classes, version, archived):
    short = {"binary": "bin", "python": "py"}[version]
    folder = f"cifar-10-batches-{short}" if num_classes == 10 else f"cifar-100-{version}"
    if archived:
        with tarfile.open(root / f"cifar-{num_classes}-{version}.tar.gz", "w:gz") as archive:
            for name, data in files.items():
                member = tarfile.TarInfo(f"{folder}/{name}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    else:
        (root / folder).mkdir()
        for name, data in files.items():
            (root / folder / name).write_bytes(data)


@pytest.mark.parametrize("archived", [False, True])
@pytest.mark.parametrize("version", ["binary", "python"])
@pytest.mark.parametrize("num_classes, batches", [(10, 5), (10, 2), (100, 1)])
def test_cifar_in_every_official_form(tmp_path, num_classes, batches, version, archived):
    files, train, test = cifar_files(num_classes, version, batches)
    write_cifar(tmp_path, files, num_classes, version, archived)
    dataset = load_dataset(f"cifar{num_classes}", directory=str(tmp_path), validation="test")
    assert np.array_equal(dataset.train.images, np.concatenate([images for images, _ in train]))
    assert np.array_equal(dataset.train.labels, np.concatenate([labels for _, labels in train]))
    assert np.array_equal(dataset.test.images, test[0])
    assert dataset.num_classes == len(set(dataset.class_names)) == num_classes
    assert (dataset.preprocessing.crop_padding, dataset.preprocessing.flip) == (4, True)


@pytest.mark.parametrize(
    "name, damage, message",
    [
        ("data_batch_1.bin", lambda data: data[:-1], "multiple of 3073"),
        ("data_batch_1.bin", lambda data: b"\x0b" + data[1:], "0..9"),
        ("data_batch_1.bin", lambda data: b"", "0 bytes"),
        ("test_batch.bin", None, "lacks test_batch.bin"),
    ],
)
def test_a_damaged_cifar_file_is_named(tmp_path, name, damage, message):
    files, _, _ = cifar_files(10, "binary", 1)
    if damage is None:
        del files[name]
    else:
        files[name] = damage(files[name])
    write_cifar(tmp_path, files, 10, "binary", archived=False)
    with pytest.raises(UserError, match=message) as error:
        load_dataset("cifar10", directory=str(tmp_path))
    assert name in str(error.value)


def test_a_header_of_an_archive_may_be_damaged_anywhere(tmp_path):
    """It is read, as where a date is wrong, or refused in words: no other end."""
    files, _, _ = cifar_files(10, "binary", 1)
    write_cifar(tmp_path, files, 10, "binary", archived=True)
    path = tmp_path / "cifar-10-binary.tar.gz"
    whole = gzip.decompress(path.read_bytes())
    refused = 0
    for place in range(0, 512, 5):
        for value in (0x00, 0x53, 0xFF):  # 0x53 is "S", for a sparse file.
            path.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
            try:
                load_dataset("cifar10", directory=str(tmp_path))
            except UserError as error:
                assert str(path) in str(error)
                refused += 1
    assert refused > 100


def test_a_truncated_archive_is_named(tmp_path):
    files, _, _ = cifar_files(10, "binary", 2)
    write_cifar(tmp_path, files, 10, "binary", archived=True)
    path = tmp_path / "cifar-10-binary.tar.gz"
    path.write_bytes(path.read_bytes()[:20000])
    with pytest.raises(UserError, match=r"cifar-10-binary\.tar\.gz: cannot be unpacked"):
        load_dataset("cifar10", directory=str(tmp_path))


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_cannot_run_code(tmp_path):
    target = tmp_path / "touched"
    data = pickle.dumps({"data": Attack(target)})
    with pytest.raises(pickle.UnpicklingError, match="refused"):
        load_arrays(data)
    assert not target.exists()
    pickle.loads(data)  # the attack is a real one
    assert target.exists()


def test_a_refused_batch_is_named(tmp_path):
    files, _, _ = cifar_files(10, "python", 1)
    files["data_batch_1"] = pickle.dumps({"data": Attack(tmp_path / "touched")})
    write_cifar(tmp_path, files, 10, "python", archived=False)
    with pytest.raises(UserError, match="data_batch_1: not a CIFAR batch"):
        load_dataset("cifar10", directory=str(tmp_path))


# --- SVHN ---------------------------------------------------------------------------------------


def write_svhn(folder, **changed):
    content = {}
    for part, count in (("train", 30), ("test", 10)):
        images, labels = examples(count, (32, 32, 3), 10, seed=count)
        content[part] = images, labels
        arrays = {
            "X": images.transpose(1, 2, 3, 0),
            "y": np.where(labels == 0, 10, labels).astype(np.uint8)[:, None],
        }
        scipy.io.savemat(folder / f"{part}_32x32.mat", {**arrays, **changed}, do_compression=True)
    return content


def test_svhn_label_10_is_the_digit_0(tmp_path):
    content = write_svhn(tmp_path)
    dataset = load_dataset("svhn", directory=str(tmp_path), validation="test")
    for split, part in ((dataset.train, "train"), (dataset.test, "test")):
        assert np.array_equal(split.images, content[part][0])
        assert np.array_equal(split.labels, content[part][1])
    assert (dataset.preprocessing.crop_padding, dataset.preprocessing.flip) == (4, False)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"y": np.arange(30)[:, None]}, "expected 1..10"),
        ({"y": np.ones((3, 1), np.uint8)}, "30 images but 3 labels"),
        ({"X": np.zeros((28, 28, 3, 30), np.uint8)}, r"expected \[32, 32, 3, N\]"),
    ],
)
def test_malformed_svhn_is_named(tmp_path, changed, message):
    write_svhn(tmp_path, **changed)
    with pytest.raises(UserError, match=message) as error:
        load_dataset("svhn", directory=str(tmp_path))
    assert "train_32x32.mat" in str(error.value)


def test_truncated_svhn_is_named(tmp_path):
    write_svhn(tmp_path)
    path = tmp_path / "test_32x32.mat"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"test_32x32\.mat: not readable"):
        load_dataset("svhn", directory=str(tmp_path))
    path.unlink()
    with pytest.raises(UserError, match=r"lacks test_32x32\.mat"):
        load_dataset("svhn", directory=str(tmp_path))


# --- the real files -----------------------------------------------------------------------------


@pytest.mark.parametrize("name, balanced", [("mnist", False), ("fashion_mnist", True)])
def test_the_real_files(name, balanced):
    if not (REAL_DATA / name).is_dir():
        pytest.skip(f"no {REAL_DATA / name}")
    dataset = load_dataset(name, directory=str(REAL_DATA), validation="test")
    assert (len(dataset.train.labels), len(dataset.test.labels)) == (60000, 10000)
    counts = np.bincount(dataset.train.labels)
    assert (counts == 6000).all() == balanced
    # Real pictures: dark at the edge, bright in the middle; noise or a misread row order is not.
    mean = dataset.train.images[..., 0].mean(0)
    assert mean[14:18, 14:18].mean() > 4 * mean[:4].mean()
