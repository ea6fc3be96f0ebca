"""The five sets of the paper: where their official files are found and how they are treated."""

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from autogrow_jax.errors import UserError
from autogrow_jax.files.cifar import CIFAR10, CIFAR100, read_cifar_folder
from autogrow_jax.files.idx import read_idx_folder
from autogrow_jax.files.types import (
    DAMAGED,
    Preprocessing,
    Source,
    Split,
    another_set,
    make_split,
    reason,
)
from autogrow_jax.process import user_path

DIGITS = tuple(str(digit) for digit in range(10))
_CLOTHES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
_CIFAR10 = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
_CIFAR100_TEXT = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
    camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile
    cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp
    lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom
    oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
    possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake
    spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor
    train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
_CIFAR100 = tuple(_CIFAR100_TEXT.split())
_SVHN_FILES = ("train_32x32.mat", "test_32x32.mat")


def read_svhn_folder(folder: Path, class_names: tuple[str, ...]) -> Source | None:
    """Reads SVHN's two files, if there is one; the "extra" part is not used, as in the paper."""
    paths = [folder / name for name in _SVHN_FILES]
    missing = [path.name for path in paths if not path.is_file()]
    if len(missing) == len(paths):
        return None
    if missing:
        raise UserError(f"{folder} lacks {missing[0]}; both {' and '.join(_SVHN_FILES)} are needed")
    train, test = (_read_mat(path, len(class_names)) for path in paths)
    return Source(train, None, test, class_names, str(folder))


def _read_mat(path: Path, num_classes: int) -> Split:
    from scipy.io.matlab import MatReadWarning, loadmat  # Comes with scikit-learn; slow to import.

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", MatReadWarning)
            raw = loadmat(path)
    except Exception as error:  # scipy raises whatever the damaged byte leads it to.
        raise UserError(
            f"{path}: not readable as a MATLAB file ({reason(error)}); {DAMAGED}"
        ) from error
    if "X" not in raw or "y" not in raw:
        found = ", ".join(name for name in raw if not name.startswith("__"))
        raise UserError(f"{path}: holds {found or 'nothing'}, expected the variables X and y")
    images, labels = raw["X"], raw["y"]
    for what, array in (("X", images), ("y", labels)):
        if not isinstance(array, np.ndarray) or not np.issubdtype(array.dtype, np.integer):
            found = getattr(array, "dtype", type(array).__name__)
            raise UserError(f"{path}: {what} is {found}, expected whole numbers")
    if images.ndim != 4 or images.shape[:3] != (32, 32, 3):
        raise UserError(f"{path}: X has shape {list(images.shape)}, expected [32, 32, 3, N]")
    labels = labels.reshape(-1)
    if labels.size and (labels.min() < 1 or labels.max() > 10):
        raise UserError(f"{path}: labels run from {labels.min()} to {labels.max()}, expected 1..10")
    images = np.ascontiguousarray(images.transpose(3, 0, 1, 2))
    # The digit 0 is labelled 10: MATLAB counts from one.
    return make_split(images, np.where(labels == 10, 0, labels), num_classes, str(path))


class OfficialSet(NamedTuple):
    """One of the paper's sets."""

    read: Callable[[Path, tuple[str, ...]], Source | None]  # From one folder; None where it is not.
    class_names: tuple[str, ...]
    folders: tuple[str, ...]  # Of the data directory, looked into before the directory itself.
    files: str  # The official ones and their sizes in bytes, for a message.
    preprocessing: Preprocessing
    tfds_name: str = ""  # Where TFDS has another name for it.
    side: int = 32  # Of the images as the paper's networks see them, in pixels.
    package: str = ""  # Of Debian, which puts the files into `packaged`.
    packaged: str = ""


def _idx_files(train_images: str, train_labels: str, test_images: str, test_labels: str) -> str:
    return (
        f"train-images-idx3-ubyte.gz ({train_images} bytes), train-labels-idx1-ubyte.gz "
        f"({train_labels}), t10k-images-idx3-ubyte.gz ({test_images}), t10k-labels-idx1-ubyte.gz "
        f"({test_labels})"
    )


def _cifar(layout, class_names, unpacked, num_bytes, mean, std) -> OfficialSet:
    name, folder = layout.archive, layout.name
    outer = (folder, f"{name}-binary", f"{name}-python")  # Some programs unpack into such a one.
    return OfficialSet(
        read=partial(read_cifar_folder, layout=layout),
        class_names=class_names,
        folders=(*unpacked, *outer, *(f"{out}/{inner}" for out in outer for inner in unpacked)),
        files=f"{name}-binary.tar.gz ({num_bytes[0]} bytes) or {name}-python.tar.gz "
        f"({num_bytes[1]}), as they are or unpacked",
        preprocessing=Preprocessing(mean, std, crop_padding=4, flip=True),
    )


# Preprocessing as in the paper and its authors' code. CIFAR10's std is theirs too; the true one is
# (.2471, .2435, .2616).
OFFICIAL_SETS: dict[str, OfficialSet] = {
    "mnist": OfficialSet(
        read=read_idx_folder,
        class_names=DIGITS,
        folders=("mnist", "MNIST/raw", "MNIST"),
        files=_idx_files("9,912,422", "28,881", "1,648,877", "4,542"),
        preprocessing=Preprocessing((0.0,), (1.0,), crop_padding=0, flip=False),
    ),
    "fashion_mnist": OfficialSet(
        read=read_idx_folder,
        class_names=_CLOTHES,
        folders=("fashion_mnist", "fashion-mnist", "FashionMNIST/raw", "FashionMNIST"),
        files=_idx_files("26,421,880", "29,515", "4,422,102", "5,148"),
        preprocessing=Preprocessing((0.0,), (1.0,), crop_padding=0, flip=True),
        package="dataset-fashion-mnist",
        packaged="/usr/share/datasets/fashion-mnist",
    ),
    "cifar10": _cifar(
        CIFAR10,
        _CIFAR10,
        unpacked=("cifar-10-batches-bin", "cifar-10-batches-py"),
        num_bytes=("170,052,171", "170,498,071"),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2023, 0.1994, 0.2010),
    ),
    "cifar100": _cifar(
        CIFAR100,
        _CIFAR100,
        unpacked=("cifar-100-binary", "cifar-100-python"),
        num_bytes=("168,513,733", "169,001,437"),
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
    ),
    "svhn": OfficialSet(
        read=read_svhn_folder,
        class_names=DIGITS,
        folders=("svhn", "SVHN", "svhn_cropped"),
        files="train_32x32.mat (182,040,794 bytes), test_32x32.mat (64,275,384)",
        tfds_name="svhn_cropped",
        preprocessing=Preprocessing(
            (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970), crop_padding=4, flip=False
        ),
    ),
}


# The id of a set's first training image, for those sets whose files have the same names.
_FIRST_IMAGES = {0xEE64976FCC5158BF: "mnist", 0xA27E12E086D7A20D: "fashion_mnist"}


def read_official(name: str, directory: str) -> Source | None:
    """Looks for a set's official files in `directory`, its usual sub-folders, and the system's.

    Raises:
      UserError: files are there, but some are missing or damaged, or they are another set's.
    """
    official, root = OFFICIAL_SETS[name], user_path(directory)
    if directory and root.is_file():
        raise UserError(f"the data directory {root} is a file; give the folder that it lies in")
    for folder in search_folders(name, directory):
        if folder.is_dir() and (source := official.read(folder, official.class_names)):
            first = int(source.train.ids[0]) if source.train else 0
            if (held := _FIRST_IMAGES.get(first, name)) != name:
                raise another_set(folder, held, name)
            return source
        # The data directory itself may be that of several sets.
        if folder != root and (held := find_other(name, folder)):
            raise another_set(folder, held, name)
    return None


def find_other(name: str, folder: Path) -> str:
    """The set other than `name` whose files lie in a folder; "" for none."""
    for other, official in OFFICIAL_SETS.items():
        try:
            if other != name and official.read(folder, official.class_names):
                return other
        except UserError:  # There are some, though not as they should be.
            return other
    return ""


def search_folders(name: str, directory: str) -> list[Path]:
    """The folders looked into, in order: sub-folders of the set's own name come first.

    Where a package of the system puts the set comes last.
    """
    packaged = [Path(folder)] if (folder := OFFICIAL_SETS[name].packaged) else []
    if not directory:
        return packaged
    root = user_path(directory)
    folders = [root / folder for folder in OFFICIAL_SETS[name].folders]
    # MNIST and FashionMNIST use the same file names: a folder that bears the name of the one must
    # not be taken for the other.
    others = [official for other, official in OFFICIAL_SETS.items() if other != name]
    of_others = {folder.split("/")[0] for official in others for folder in official.folders}
    return folders + ([] if of_others & set(root.parts[-2:]) else [root]) + packaged
