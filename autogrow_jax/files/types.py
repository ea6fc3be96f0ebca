"""What readers hand over, and the checks that every reader's set passes."""

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np

from autogrow_jax.errors import UserError, printable

# How messages of files that are not what they should be end.
DAMAGED = "it is damaged or cut short, fetch it again"


def reason(error: Exception) -> str:
    """What a library raised, in one line of no more than 300 characters."""
    line = " ".join(str(error).split()) or type(error).__name__
    return line if len(line) <= 300 else f"{line[:300]}..."


def plain_name(text: str) -> str:
    """A class's name as it is matched.

    Accents are composed, which macOS writes apart in file names; blanks at the ends, marks of byte
    order and spaces without width, as lists in text files have them, are left out.
    """
    text = text.translate({0xFEFF: None, 0x200B: None}).strip()
    return unicodedata.normalize("NFC", printable(text).replace("\n", "\\n"))


def another_set(where: object, held: str, name: str) -> UserError:
    """What to raise where the files of the set `held` are found in the place of those of `name`."""
    return UserError(
        f"{where} holds the files of {held}, not of {name}; ask for {held}, or put those of {name}"
        " there"
    )


class NoTrainingPart(UserError):
    """A set cannot be trained on, as all its images are for validation or for testing."""


class Images(Protocol):
    """Images that are read when they are asked for: of an array, what a part of a set needs."""

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, H, W, C]."""

    @property
    def dtype(self) -> np.dtype:
        """Of the pixels, uint8."""

    @property
    def nbytes(self) -> int:
        """Bytes of all of them, decoded."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any) -> np.ndarray: ...

    def select(self, mask: np.ndarray) -> "Images":
        """The images of a mask, bool [N], still unread."""


class Split(NamedTuple):
    """One part of a data set."""

    # uint8 [N, H, W, C], pixels 0..255; a read-only memory map it may be, or a stream's `Images`.
    images: Any
    labels: np.ndarray  # int32 [N], class indices from 0.
    ids: np.ndarray  # uint64 [N], see `image_ids`; copies of one image have one.


@dataclass(frozen=True)
class Preprocessing:
    """What happens to a batch inside the training step; hashable, as static arguments are."""

    mean: tuple[float, ...]  # Per channel, for pixels in [0, 1].
    std: tuple[float, ...]
    crop_padding: int  # Zeros on each side before a random crop back, in pixels; 0 means no crop.
    flip: bool  # Whether half of the training images are mirrored left to right.


def image_ids(images: Iterable[np.ndarray | bytes]) -> np.ndarray:
    """Hashes the bytes of each image, an array or the content of its file, to uint64 [N].

    Of an image as its source has it, before it is resized or padded. By it an image is known again,
    whatever its place in the set.
    """
    contents = (image if isinstance(image, bytes) else image.tobytes() for image in images)
    digests = (hashlib.blake2b(content, digest_size=8).digest() for content in contents)
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def take(part: Split, mask: np.ndarray) -> Split:
    """Takes the images of a mask, bool [N]: a copy in memory, of a stream names alone."""
    lazily = getattr(part.images, "select", None)
    images = lazily(mask) if lazily else np.asarray(part.images[mask])
    return Split(images, part.labels[mask], part.ids[mask])


class Source(NamedTuple):
    """What a reader hands over: the parts a set comes with, before anything is held out."""

    train: Split | None  # None where a set brings none: it can be evaluated, not trained on.
    validation: Split | None
    test: Split | None
    class_names: tuple[str, ...]
    where: str  # The file or folder it was read from, for messages.
    notes: tuple[str, ...] = ()  # Lines to be said before training, such as what was passed over.
    # Of each part the files in the order of its images, where each image is one.
    files: Mapping[str, Sequence[Path]] = MappingProxyType({})


def make_split(
    images: Any,
    labels: np.ndarray,
    num_classes: int,
    where: str,
    ids: np.ndarray | None = None,
) -> Split:
    """Checks one part of a set and gives its labels their final type.

    Images are uint8 [N, H, W, C], labels integers [N] or [N, 1] from 0 to num_classes - 1. Ids
    are computed where they are not given, as those of a stream have to be.

    Raises:
      UserError: names `where`; no images, another shape or type, counts that differ, labels out of
        range.
    """
    if len(images.shape) != 4 or images.dtype != np.uint8:
        raise UserError(
            f"{where}: images are {images.dtype} {list(images.shape)}, expected uint8 [N, H, W, C]"
        )
    if 0 in images.shape:
        raise UserError(f"{where}: no image in it (shape {list(images.shape)})")
    labels = np.asarray(labels)
    if not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            f"{where}: labels are {labels.dtype}, expected integers from 0; "
            "convert class names or one-hot rows to class indices first"
        )
    if labels.ndim == 2 and labels.shape[1] == 1:  # Keras writes CIFAR's labels this way.
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise UserError(f"{where}: labels have shape {list(labels.shape)}, expected [N]")
    if len(labels) != len(images):
        raise UserError(f"{where}: {len(images)} images but {len(labels)} labels; they must agree")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise UserError(
            f"{where}: labels run from {low} to {high}, expected 0..{num_classes - 1} "
            f"for {num_classes} classes"
        )
    ids = image_ids(images) if ids is None else ids
    if len(ids) != len(images):
        raise UserError(f"{where}: {len(images)} images but {len(ids)} ids; they must agree")
    return Split(images, labels.astype(np.int32), ids)


def check_source(source: Source) -> Split:
    """Returns the training part of a set that can be trained on.

    Raises:
      UserError: no training part, parts whose images differ in shape, a single class, a class
        without training images, training images that are all equal.
    """
    if source.train is None:
        raise NoTrainingPart(
            f"{source.where}: nothing to train on, as there is no x_train and y_train in it or no"
            " folder train; it can be evaluated only"
        )
    shape = source.train.images.shape[1:]
    for part_name, part in (("validation", source.validation), ("test", source.test)):
        if part is not None and part.images.shape[1:] != shape:
            raise UserError(
                f"{source.where}: {part_name} images are {list(part.images.shape[1:])} "
                f"but train images {list(shape)}; all must have one shape"
            )
    num_classes = len(source.class_names)
    if num_classes < 2:
        raise UserError(f"{source.where}: {num_classes} class, at least 2 are needed")
    counts = np.bincount(source.train.labels, minlength=num_classes)
    missing = np.flatnonzero(counts == 0)
    if missing.size:
        names = ", ".join(f"{i} ({source.class_names[i]})" for i in missing[:5])
        raise UserError(
            f"{source.where}: {missing.size} of {num_classes} classes have no training image: "
            f"{names}{', ...' if missing.size > 5 else ''}; number the classes 0..K-1 without gaps"
        )
    # Ends at the first image that differs, the second of any real set.
    images = source.train.images
    if len(images) > 1 and all(np.array_equal(image, images[0]) for image in images):
        raise UserError(
            f"{source.where}: all {len(images)} training images are equal, so nothing can be "
            "learnt from them; look at how they were written"
        )
    return source.train
