"""The readers of official files, on files written here in the official formats."""

# pickle's pure-Python pickler, which the Python 2 writer below builds on, has no type stubs.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

import gzip
import io
import os
import pickle
import resource
import struct
import sys
import tarfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import scipy.io

from autogrow_jax.data import load_dataset
from autogrow_jax.errors import UserError
from autogrow_jax.files.cifar import load_arrays
from autogrow_jax.files.idx import read_idx_folder
from autogrow_jax.files.official import OFFICIAL_SETS, search_folders

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


def test_fashion_mnist_is_found_where_debians_package_puts_it(tmp_path, monkeypatch):
    official = OFFICIAL_SETS["fashion_mnist"]
    assert official.packaged == "/usr/share/datasets/fashion-mnist"
    there = tmp_path / "datasets" / "fashion-mnist"
    missing = official._replace(packaged=str(there))
    monkeypatch.setitem(OFFICIAL_SETS, "fashion_mnist", missing)
    nowhere = str(tmp_path / "nowhere")
    with pytest.raises(UserError, match="Debian's package dataset-fashion-mnist") as refused:
        load_dataset("fashion_mnist", directory=nowhere)
    assert f"{there} (no such folder)" in str(refused.value)
    write_idx(there, train=30)
    for directory in ("", nowhere):
        dataset = load_dataset("fashion_mnist", directory=directory, validation="test")
        assert (len(dataset.train.labels), dataset.where) == (30, str(there))
    own = tmp_path / "own" / "fashion_mnist"
    write_idx(own, train=20)
    dataset = load_dataset("fashion_mnist", directory=str(own.parent), validation="test")
    assert dataset.where == str(own)
    with pytest.raises(UserError) as refused:
        load_dataset("mnist", directory=nowhere)
    assert "Debian" not in str(refused.value)


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


def cifar_files(num_classes, version, train_batches, count=0):
    """File contents by name, and the train and test images and labels they hold."""
    files, content = {}, []
    names = [f"data_batch_{i + 1}" for i in range(train_batches)] + ["test_batch"]
    if num_classes == 100:
        names = ["train", "test"]
    for seed, name in enumerate(names):
        images, labels = examples(count or num_classes, (32, 32, 3), num_classes, seed)
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
    for data in (path.read_bytes()[:20000], b"", b"no archive", b"\x1f\x8b but no archive"):
        path.write_bytes(data)
        message = r"cifar-10-binary\.tar\.gz: cannot be unpacked"
        with pytest.raises(UserError, match=message) as error:
            load_dataset("cifar10", directory=str(tmp_path))
        assert "\n" not in str(error.value)


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


def write_batches(root, num_classes=10, version="binary", batches=5, archived=False, drop=()):
    files, _, _ = cifar_files(num_classes, version, batches)
    files = {name: data for name, data in files.items() if name not in drop}
    write_cifar(root, files, num_classes, version, archived)


@pytest.mark.parametrize("version, suffix", [("binary", ".bin"), ("python", "")])
@pytest.mark.parametrize("archived", [False, True])
def test_cifar_batches_that_are_missing_are_named(tmp_path, version, suffix, archived):
    missing = [f"data_batch_{i}{suffix}" for i in (2, 5)]
    write_batches(tmp_path, 10, version, archived=archived, drop=missing)
    dataset = load_dataset("cifar10", directory=str(tmp_path), validation="test")
    (line,) = (line for line in dataset.notes if "lacks" in line)
    assert f"lacks {', '.join(missing)}: trained on the other" in line
    assert len(dataset.train.labels) == 30


def test_of_whole_cifar_nothing_is_said_to_be_missing(tmp_path):
    write_batches(tmp_path)
    notes = load_dataset("cifar10", directory=str(tmp_path), validation="test").notes
    assert not any("lacks" in line for line in notes)


@pytest.mark.parametrize("name", ["cifar-10-python.tar", "cifar-10-python.tar.gz"])
def test_a_tar_that_a_browser_unpacked_is_read(tmp_path, name):
    write_batches(tmp_path, 10, "python", archived=True)
    path = tmp_path / "cifar-10-python.tar.gz"
    unpacked = gzip.decompress(path.read_bytes())
    path.unlink()
    (tmp_path / name).write_bytes(unpacked)
    dataset = load_dataset("cifar10", directory=str(tmp_path), validation="test")
    assert len(dataset.train.labels) == 50
    assert str(tmp_path / name) in dataset.where


@pytest.mark.parametrize("version", ["binary", "python"])
@pytest.mark.parametrize("archived", [False, True])
@pytest.mark.parametrize("num_classes, other", [(10, 100), (100, 10)])
def test_files_of_the_other_cifar_are_recognised(tmp_path, num_classes, other, version, archived):
    """In a folder or an archive that bears the name of the one lie the files of the other."""
    write_batches(tmp_path, num_classes, version, 1, archived)
    (whole,) = tmp_path.iterdir()
    (tmp_path / f"cifar{other}").mkdir()
    if archived:
        whole.rename(tmp_path / f"cifar{other}" / f"cifar-{other}-{version}.tar.gz")
    else:
        for path in whole.iterdir():
            path.rename(tmp_path / f"cifar{other}" / path.name)
    message = f"holds the files of cifar{num_classes}, not of cifar{other}"
    with pytest.raises(UserError, match=message):
        load_dataset(f"cifar{other}", directory=str(tmp_path))


@pytest.mark.parametrize("version", ["binary", "python"])
@pytest.mark.parametrize("num_classes, other", [(10, 100), (100, 10)])
def test_files_of_the_other_cifar_are_recognised_by_content(tmp_path, num_classes, other, version):
    """They bear the names that the one's files have."""
    files, _, _ = cifar_files(num_classes, version, 1)
    suffix = ".bin" * (version == "binary")
    names = {10: ("data_batch_1", "test_batch"), 100: ("train", "test")}
    renamed = {
        f"{wrong}{suffix}": files[f"{right}{suffix}"]
        for right, wrong in zip(names[num_classes], names[other], strict=True)
    }
    write_cifar(tmp_path, renamed, other, version, archived=False)
    message = f"holds the files of cifar{num_classes}, not of cifar{other}"
    with pytest.raises(UserError, match=message):
        load_dataset(f"cifar{other}", directory=str(tmp_path))


def test_a_data_directory_of_another_set_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    write_batches(tmp_path, 10, "python", 1)
    folder = tmp_path / "cifar-10-batches-py"
    with pytest.raises(UserError, match=f"{folder} holds the files of cifar10$"):
        load_dataset("cifar100", directory=str(folder))
    with pytest.raises(UserError, match="is a file; give the folder that it lies in"):
        load_dataset("cifar10", directory=str(folder / "test_batch"))


def test_a_number_in_a_damaged_pickle_takes_no_memory():
    """Places in its table of what was read, and lengths, that no file of this size can have."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for place in (2**28, 2**31):
        data = b"\x80\x02N" + pickle.LONG_BINPUT + struct.pack("<I", place) + b"."
        assert load_arrays(data) is None
    for code, form in ((pickle.BYTEARRAY8, "<Q"), (pickle.BINBYTES8, "<Q"), (b"T", "<i")):
        with pytest.raises(pickle.UnpicklingError):
            load_arrays(b"\x80\x05" + code + struct.pack(form, 2**31 - 1) + b"abc.")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


def test_a_type_in_a_damaged_pickle_is_refused():
    whole = python2_pickle(np.arange(4, dtype=np.uint8))
    assert load_arrays(whole).tolist() == [0, 1, 2, 3]
    for name in (b"O8", b"V1", b"S1"):
        damaged = whole.replace(b"T\x02\0\0\0u1", b"T\x02\0\0\0" + name)
        assert damaged != whole
        with pytest.raises(pickle.UnpicklingError, match="refused"):
            load_arrays(damaged)


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
