"""Random arrays, folders and damaged files: each is read, or refused in one clear line.

`AUTOGROW_EXAMPLES=3000 pytest tests/test_random_data.py` tries more of them, and others.
"""

import gzip
import io
import os
import re
import resource
import sys
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from test_data_official import cifar_files, idx_bytes, write_cifar, write_svhn

from autogrow_jax.data import load_dataset
from autogrow_jax.data.load import read_source
from autogrow_jax.errors import UserError
from autogrow_jax.files.types import check_source

# Files have to be written for each example.
_FEW = settings(max_examples=int(os.environ.get("AUTOGROW_EXAMPLES", "0")) or 15)


@contextmanager
def little_memory():
    """Fails what takes hundreds of megabytes because of a number in a damaged file."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 300 * 1024, f"{grown // 1024} MiB more"


def attempt(read):
    """What `read` returns, None where it refuses, in one line and without a library's warning."""
    with little_memory(), warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return read()
        except UserError as error:
            message = str(error)
            # Of TFDS a second way has a line of its own, and so has each of several broken images.
            assert message and message.count("\n") == len(re.findall("\n(Or: |  /)", message))
            assert len(message) < 4000
            message.encode()
            return None


def check_split(part, num_classes):
    assert part.images.dtype == np.uint8 and part.images.ndim == 4 and len(part.images)
    assert part.labels.dtype == np.int32 and part.ids.dtype == np.uint64
    assert len(part.images) == len(part.labels) == len(part.ids)
    assert part.labels.min() >= 0 and part.labels.max() < num_classes


def read(name, directory="", size=0, cache="", **more):
    """Reads the parts that a set comes with; what comes of it can be trained or evaluated on."""
    source = attempt(lambda: read_source(name, directory, size, cache, **more))
    if source is not None:
        parts = [part for part in (source.train, source.validation, source.test) if part]
        assert parts
        for part in parts:
            check_split(part, len(source.class_names))
        assert len(set(source.class_names)) == len(source.class_names) > 0
        "".join((*source.class_names, source.where, *source.notes)).encode()
        attempt(lambda: check_source(source))
    return source


def load(name, **options):
    """Loads a set; what comes of it is whole."""
    dataset = attempt(lambda: load_dataset(name, **options))
    if dataset is not None:
        for part in (dataset.train, dataset.validation, dataset.test):
            check_split(part, dataset.num_classes)
            assert part.images.shape[1:] == dataset.image_shape
        assert dataset.num_classes == len(dataset.class_names) >= 2
        assert set(dataset.train.labels) == set(range(dataset.num_classes))
        assert len(dataset.preprocessing.mean) == dataset.image_shape[-1]
        assert all(np.isfinite(dataset.preprocessing.mean)) and min(dataset.preprocessing.std) > 0
        "\n".join(dataset.notes).encode()
    return dataset


# --- Arrays.

DTYPES = ["u1", "u1", "u1", "?", "i1", "u2", "i8", "u8", "f2", "f4", "f8", "c8", "S3", "U2"]
DTYPES += ["M8[s]", ">i4", ">f8"]
SHAPES = st.one_of(
    st.tuples(st.integers(0, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 5)),
    st.tuples(st.integers(0, 9), st.integers(1, 9), st.integers(1, 9)),
    st.lists(st.integers(0, 5), max_size=5).map(tuple),
)
PARTS = [["train"], ["train", "test"], ["train", "val", "test"], ["test"], []]
OTHERS = ["x_valid", "X_test", "class_names", "ü", "a/b", "weights"]


@st.composite
def arrays(draw):
    """Arrays by name, mostly such as a set might have."""
    found, shape = {}, draw(SHAPES)
    for part in draw(st.sampled_from(PARTS)):
        usual = draw(st.integers(0, 3))
        images = (draw(st.integers(6, 12)), *shape[1:]) if usual else draw(SHAPES)
        found[f"x_{part}"] = draw(pixels(images))
        count = images[0] if images and draw(st.integers(0, 9)) else draw(st.integers(0, 9))
        found[f"y_{part}"] = draw(labels(count))
    for name in draw(st.lists(st.sampled_from(OTHERS), max_size=2)):
        names = np.asarray(draw(st.lists(st.text(max_size=3), max_size=4)), "U")
        names = names if draw(st.integers(0, 2)) else np.char.encode(names, "utf-8", "replace")
        found[name] = names
    if found and not draw(st.integers(0, 4)):
        del found[draw(st.sampled_from(sorted(found)))]
    return found


@st.composite
def pixels(draw, shape):
    dtype = draw(st.sampled_from(DTYPES))
    scale = draw(st.sampled_from([0, 1, 1, 255, 1e9]))
    values = np.random.default_rng(draw(st.integers(0, 3))).random(shape) * scale
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return values.astype("i8").astype(dtype) if "M" in dtype else values.astype(dtype)


@st.composite
def labels(draw, count):
    usual = np.arange(count) % draw(st.integers(1, 4))
    forms = {
        "usual": lambda: usual.astype(draw(st.sampled_from(["u1", "i4", "i8", "u8", "?", ">i2"]))),
        "column": lambda: usual[:, None],
        "one-hot": lambda: np.eye(4)[usual],
        "floats": lambda: usual.astype(float),
        "names": lambda: usual.astype("U2"),
        "far": lambda: usual + draw(st.sampled_from([-1, 1, 10**6, 2**31, 2**62])),
        "farther": lambda: usual.astype("u8") + np.uint64(2**64 - 9),
    }
    return forms[draw(st.sampled_from(["usual"] * 6 + sorted(forms)))]()


OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "validation": st.sampled_from(["test", "0.3", "0.999", "1e-9", "nan", "x"]),
        "fraction": st.floats(0, 1),
        "image_size": st.integers(0, 20),
        "crop_padding": st.integers(0, 9),
        "seed": st.integers(0, 2**32 - 1),
    },
)


@given(arrays(), OPTIONS)
def test_random_arrays_are_read_or_refused(found, options):
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/a.npz", **found)
        load(f"{folder}/a.npz", **options)


# --- Damaged files.


def damaged(draw, data):
    """Bytes with some of them changed, missing or more."""
    data = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        how = draw(st.sampled_from(["flip", "set", "cut", "remove", "insert", "append", "double"]))
        # Headers lie at the start; those of zip and tar at the end as well.
        most = draw(st.sampled_from([4, 40, 400, len(data)]))
        at = min(draw(st.integers(0, most)), max(len(data) - 1, 0))
        at = draw(st.sampled_from([at, at, max(len(data) - 1 - at, 0)]))
        few = draw(st.binary(min_size=1, max_size=9))
        if how == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "set":
            data[at : at + len(few)] = few
        elif how == "cut":
            del data[at:]
        elif how == "remove":
            del data[at : at + len(few)]
        elif how == "insert":
            data[at:at] = few
        elif how == "append":
            data += few
        else:
            data += data[at:]
    return bytes(data)


def damage(draw, folder):
    """Damages some of the files below a folder, or what is packed in them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in draw(st.lists(st.sampled_from(files), min_size=1, max_size=2, unique=True)):
        data = path.read_bytes()
        if path.suffix == ".gz" and draw(st.booleans()):
            data = gzip.compress(damaged(draw, gzip.decompress(data)), 1, mtime=0)
        else:
            data = damaged(draw, data)
        path.write_bytes(data)


def idx(folder, suffix):
    for part in ("train", "t10k"):
        images = np.random.default_rng(0).integers(0, 256, (4, 28, 28)).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", np.arange(4, dtype="u1"))):
            data = idx_bytes(array)
            path = folder / f"{part}-{kind}-ubyte{suffix}"
            path.write_bytes(gzip.compress(data) if suffix else data)


def cifar(folder, num_classes, version, archived):
    files, _, _ = cifar_files(num_classes, version, 1, 3)
    write_cifar(folder, files, num_classes, version, archived)


def npz(folder, compressed):
    save = np.savez_compressed if compressed else np.savez
    images = np.random.default_rng(0).integers(0, 255, (20, 4, 4, 1)).astype(np.uint8)
    save(folder / "a.npz", x_train=images, y_train=np.arange(20) % 2)


def pictures(folder):
    for i, suffix in enumerate(("png", "jpg", "gif", "bmp", "tif", "webp", "ppm")):
        place = folder / "set" / "ab"[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        mode = ("RGB", "L", "P", "RGBA")[i % 4] if suffix in ("png", "tif") else "RGB"
        noise = np.random.default_rng(i).integers(0, 255, (6, 6, 3)).astype(np.uint8)
        Image.fromarray(noise).convert(mode).save(place / f"{i}.{suffix}")


SETS = {
    "idx.gz": ("mnist", idx, ".gz"),
    "idx": ("fashion_mnist", idx, ""),
    "cifar-binary": ("cifar10", cifar, 10, "binary", False),
    "cifar-pickle": ("cifar10", cifar, 10, "python", False),
    "cifar100-pickle": ("cifar100", cifar, 100, "python", False),
    "cifar-binary-tar": ("cifar10", cifar, 10, "binary", True),
    "cifar-pickle-tar": ("cifar10", cifar, 10, "python", True),
    "svhn": ("svhn", write_svhn),
    "npz": ("{}/a.npz", npz, False),
    "npz-compressed": ("{}/a.npz", npz, True),
    "pictures": ("folder:{}/set", pictures),
}


@pytest.fixture(scope="module", params=SETS)
def whole(request):
    """The name of a set and its files, by their paths."""
    name, write, *args = SETS[request.param]
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), *args)
        paths = [path for path in Path(folder).rglob("*") if path.is_file()]
        return name, {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@_FEW
@given(data=st.data())
def test_damaged_files_are_read_or_refused(whole, data):
    name, files = whole
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "files"
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        damage(data.draw, folder)
        size = data.draw(st.sampled_from([0, 0, 40]))
        read(name.format(folder), str(folder), size, f"{place}/cache")


# --- Folders.

NAMES = ["train", "TRAIN", "Training", "val", "valid", "dev", "test", "Test", "eval", "cat", "dog"]
NAMES += [".x", "@eaDir", "__MACOSX", "a b", "ünï", "\udcff", "nan", "0", "1", "classes"]
FILES = ["1.png", "2.jpg", "3.JPEG", "4.gif", "5.bmp", "6.tif", "7.webp", "8", "9.txt"]
FILES += ["a\udcfe.png", "Thumbs.db", ".hidden.png", "info.json", "b.mp4", "c.csv", "train", "cat"]
KINDS = ["image"] * 8 + ["empty", "text", "link", "dead", "loop", "pipe"]
MODES = ["RGB", "RGB", "RGB", "L", "1", "P", "RGBA", "LA", "I;16", "CMYK", "I", "F"]
ENTRY = st.tuples(
    st.sampled_from(FILES), st.sampled_from(KINDS), st.sampled_from(MODES), st.integers(0, 9)
)
IMAGES = st.fixed_dictionaries({"": st.lists(ENTRY, min_size=1, max_size=4)})
CLASSES = st.dictionaries(st.sampled_from(["cat", "dog", "ünï", "1"]), IMAGES, min_size=2)
TREE = st.one_of(
    CLASSES,
    st.dictionaries(st.sampled_from(["train", "Training", "val", "test", "eval"]), CLASSES),
    st.recursive(
        IMAGES,
        lambda inside: st.dictionaries(st.sampled_from(NAMES), inside, max_size=4),
        max_leaves=12,
    ),
)
FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".gif": "GIF", ".bmp": "BMP", ".tif": "TIFF"}
FORMATS |= {".webp": "WEBP"}


def plant(folder, tree):
    """Makes the folders and files of a tree."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, inside in tree.items():
        if name:
            plant(folder / name, inside)
        else:
            for number, (file, *how) in enumerate(inside):
                put(folder / (file if number else f"0{file}"), *how)


def put(path, kind, mode, seed):
    if os.path.lexists(path):
        return
    if kind == "image":
        path.write_bytes(picture(path.suffix.lower(), mode, seed))
    elif kind in ("empty", "text"):
        path.write_text("text" * (kind == "text"))
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        beside = next(iter(path.parent.parent.iterdir()))
        path.symlink_to({"dead": "nowhere", "loop": "..", "link": beside}[kind])


def picture(suffix, mode, seed):
    noise = np.random.default_rng(seed).integers(0, 255, (6 - seed // 9, 6, 3)).astype(np.uint8)
    image = Image.fromarray(noise)
    image = image.convert("L") if mode in ("I;16", "I", "F") else image
    image, stream = image.convert(mode), io.BytesIO()
    try:
        image.save(stream, FORMATS.get(suffix, "PNG"))
    except (OSError, ValueError):  # A format that has no such mode.
        image.convert("RGB").save(stream, "PNG")
    return stream.getvalue()


@settings(max_examples=int(os.environ.get("AUTOGROW_EXAMPLES", "0")) or 30)
@given(TREE, st.sampled_from(["auto", "auto", "parts", "classes"]), st.sampled_from([0, 5, 8]))
def test_random_folders_are_read_or_refused(tree, layout, size):
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "images"
        plant(root, tree)
        how = {"size": size, "cache": f"{place}/cache", "layout": layout}
        first = read(f"folder:{root}", **how)
        if first is not None:  # Decoded once, it is the same.
            again = read(f"folder:{root}", **how)
            assert again.class_names == first.class_names and again.notes == first.notes
            for name in ("train", "validation", "test"):
                one, other = getattr(first, name), getattr(again, name)
                assert (one is None) == (other is None)
                assert one is None or all(map(np.array_equal, one, other))


# --- Names.

SIGNS = st.text(st.characters(exclude_characters="\n"), max_size=12)


@pytest.fixture(scope="module", autouse=True)
def alone(tmp_path_factory):
    """A folder to lie in, and nothing to fetch sets with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("here"))
        patch.setitem(sys.modules, "tensorflow_datasets", None)
        yield


@pytest.mark.parametrize("kind", ["", "npz:", "folder:", "folder", "mnist"])
@_FEW
@given(SIGNS, SIGNS)
@example("~nobody", "")
@example("a" * 5000, "b" * 300)
@example("a\0b", "\0")
@example("\udcff", "\udcff")
def test_any_name_and_data_directory_is_read_or_refused(kind, name, directory):
    with tempfile.TemporaryDirectory() as cache:
        if kind == "mnist":
            read("mnist", directory or name, 0, cache)
        else:
            read(kind + name, directory, 0, cache)
