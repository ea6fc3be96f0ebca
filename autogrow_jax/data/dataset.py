"""A data set ready to train on, and how one is made of what a reader hands over."""

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from autogrow_jax.data.known import Known, describe, know_part
from autogrow_jax.data.npz import as_array, make_source
from autogrow_jax.data.partition import (
    hold_out_test,
    hold_out_validation,
    keep_classes,
    subset,
)
from autogrow_jax.errors import UserError
from autogrow_jax.files import (
    Preprocessing,
    Source,
    Split,
    channel_statistics,
    check_source,
    pad_split,
)

HELD_OUT, TEST = "held-out", "test"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating)


def whole(key: str, value: Any, least: int = 0) -> int:
    """A whole number, of what a user gave for `key`; UserError of anything else."""
    if not _is_number(value) or not value >= least or value % 1 != 0:
        raise UserError(f"{key} is {value!r}, expected a whole number from {least}")
    return int(value)


class Choices(NamedTuple):
    """How a set is parted and augmented, see `load_dataset`."""

    validation: str = HELD_OUT
    validation_fraction: float = 0.1
    fraction: float = 1.0
    seed: int = 0
    crop_padding: int | None = None
    flip: bool | None = None

    def check(self) -> None:
        """Raises UserError for one that is out of range."""
        _ = self.held_out_fraction
        if not (_is_number(self.fraction) and 0 < self.fraction <= 1):
            raise UserError(f"fraction is {self.fraction!r}, expected a number above 0 and up to 1")
        whole("seed", self.seed)
        whole("crop_padding", 0 if self.crop_padding is None else self.crop_padding)

    @property
    def held_out_fraction(self) -> float:
        """The part of train to hold out, where any is."""
        key, number = "validation_fraction", self.validation_fraction
        if self.validation not in (HELD_OUT, TEST):
            key = "validation"
            try:
                number = float(self.validation)
            except (TypeError, ValueError):
                raise UserError(
                    f"validation is {self.validation!r}, expected 'held-out', 'test', or the"
                    " fraction of train to hold out, as '0.2'"
                ) from None
        if not (_is_number(number) and 0 < number < 1) and self.validation != TEST:
            raise UserError(
                f"{key} is {number!r}, expected a number between 0 and 1, both excluded"
            )
        return number


@dataclass(frozen=True)
class Dataset:
    """A data set ready to train on.

    Attributes:
      name: the name it was asked for by.
      train: what the weights are fitted to.
      validation: what steers growth and picks the checkpoint.
      test: what is looked at once, at the end. The very object `validation` is, when
        `validation_source` is "test".
      num_classes: number of classes.
      class_names: one name per class, in the order of the labels.
      preprocessing: normalisation and training-time augmentation.
      validation_source: "held-out" or "test" (the paper's protocol).
      where: the file or folder it was read from, for messages.
      source_size: height and width before the images were padded; None where they were not.
      notes: lines that say what was read, for before training.
      files: of "validation" and "test" where each image lies, in the part's order; empty for sets
        whose images are no files.
      resized: as of `Known`.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    num_classes: int
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    validation_source: str
    where: str = ""
    source_size: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    resized: int = 0

    @staticmethod
    def from_arrays(
        x_train: np.ndarray,
        y_train: np.ndarray,
        x_val: np.ndarray | None = None,
        y_val: np.ndarray | None = None,
        x_test: np.ndarray | None = None,
        y_test: np.ndarray | None = None,
        *,
        class_names: Sequence[str] | None = None,
        name: str = "arrays",
        validation: str = HELD_OUT,
        validation_fraction: float = 0.1,
        fraction: float = 1.0,
        classes: str | Sequence[str] = "",
        seed: int = 0,
        image_size: int = 0,
        crop_padding: int | None = None,
        flip: bool | None = None,
    ) -> "Dataset":
        """Makes a set of arrays, as an `.npz` file of the same names would be.

        Args:
          x_train: images uint8, or floats in [0, 1], which are rounded to 8 bits; [N, H, W, C], or
            [N, H, W] for one channel.
          y_train: integers 0..K-1, [N] or [N, 1].
          x_val, y_val, x_test, y_test: likewise; what is left out is held out of train.
          class_names: K names; by default the numbers.
          name: what the set is called in results.
          validation, validation_fraction, fraction, classes, seed, image_size, crop_padding,
            flip: as for `load_dataset`, for a set of no name.

        Raises:
          UserError: arrays of another form, a class without training images, a choice out of range.

        >>> images, labels = np.arange(16 * 8 * 8, dtype=np.uint16) % 251, np.arange(16) % 2
        >>> images = images.astype(np.uint8).reshape(16, 8, 8, 1)
        >>> dataset = Dataset.from_arrays(images, labels, class_names=("even", "odd"))
        >>> dataset.image_shape, dataset.class_names
        ((8, 8, 1), ('even', 'odd'))
        """
        given = {
            **{"x_train": x_train, "y_train": y_train, "x_val": x_val, "y_val": y_val},
            **{"x_test": x_test, "y_test": y_test, "class_names": class_names},
        }
        arrays = {key: as_array(value, key) for key, value in given.items() if value is not None}
        image_size = whole("image_size", image_size)
        how = Choices(validation, validation_fraction, fraction, seed, crop_padding, flip)
        how.check()
        source = keep_classes(make_source(arrays, name), classes)
        return make_dataset(source, name, how, image_size)

    def normalized_as(self, known: Known | None) -> "Dataset":
        """The same, normalised by the mean and standard deviation that a run began with, if any."""
        if known is None:
            return self
        own = replace(self.preprocessing, mean=known.mean, std=known.std)
        return replace(self, preprocessing=own)

    @property
    def parts(self) -> dict[str, Split]:
        """The three parts by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def some_rows(self, count: int) -> np.ndarray:
        """Rows of `count` training images that stand for all, or of all where there are fewer.

        The first, or where these hold fewer classes than as many drawn at random would, by a fifth
        or more, as in a folder, which is sorted by classes: rows that are spread evenly.
        """
        labels = self.train.labels
        count = min(count, len(labels))
        shares = np.bincount(labels) / len(labels)
        if len(np.unique(labels[:count])) > 0.8 * (1 - (1 - shares) ** count).sum():
            return np.arange(count)
        return np.linspace(0, len(labels) - 1, count).astype(np.int64)

    def known(self) -> Known:
        """What a run keeps of it."""
        parts = {name: know_part(part, self.num_classes) for name, part in self.parts.items()}
        return Known(
            self.name,
            self.where,
            self.class_names,
            self.image_shape,
            self.source_size or self.image_shape[:2],
            self.preprocessing.mean,
            self.preprocessing.std,
            parts,
            self.resized,
        )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width (pixels) and number of channels of every image."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels


def make_dataset(
    source: Source,
    name: str,
    how: Choices,
    image_size: int = 0,
    preprocessing: Preprocessing | None = None,
) -> Dataset:
    """Holds out what a set lacks, pads its images to a square, says how they are normalised.

    Args:
      source: what a reader hands over.
      name: what the set was asked for by.
      how: the user's choices, checked.
      image_size: side to pad to in pixels, 0 for the set's own size.
      preprocessing: the set's own; None for what the images that train give it, see `load_dataset`.

    Raises:
      UserError: a set that cannot be trained on, images larger than `image_size`, a crop padding as
        large as they are.
    """
    train, test = check_source(source), source.test
    if test is None and how.validation == TEST:
        test = source.validation
    if test is None:
        train, test = hold_out_test(train, source.where)
    steering = {HELD_OUT: source.validation, TEST: test}.get(how.validation)
    # Before validation is held out: who has few images has few of those too.
    train = subset(train, how.fraction, how.seed, least=2 if steering is None else 1)
    if steering is None:
        held_out = how.held_out_fraction
        train, steering = hold_out_validation(train, held_out, how.seed, source.where)
    unpadded = train.images
    if image_size:
        same = steering is test
        train, test = (pad_split(part, image_size, source.where) for part in (train, test))
        steering = test if same else pad_split(steering, image_size, source.where)
    shorter = min(train.images.shape[1:3])
    if preprocessing is None:
        statistics = channel_statistics(unpadded)
        preprocessing = Preprocessing(*statistics, crop_padding=shorter // 8, flip=False)
    if how.crop_padding is not None:
        preprocessing = replace(preprocessing, crop_padding=int(how.crop_padding))
    if how.flip is not None:
        preprocessing = replace(preprocessing, flip=bool(how.flip))
    if preprocessing.crop_padding >= shorter:
        raise UserError(
            f"crop_padding is {preprocessing.crop_padding}, but the images are "
            f"{train.images.shape[1]}x{train.images.shape[2]}: it must be smaller than a side"
        )
    dataset = Dataset(
        name=name,
        train=train,
        validation=steering,
        test=test,
        num_classes=len(source.class_names),
        class_names=source.class_names,
        preprocessing=preprocessing,
        validation_source=TEST if how.validation == TEST else HELD_OUT,
        where=source.where,
        source_size=unpadded.shape[1:3],
    )
    named = ("validation", "test") if source.files else ()
    files = {name: _find_files(name, dataset.parts[name], source) for name in named}
    return replace(dataset, notes=describe(dataset.known(), dataset.parts, source), files=files)


def _find_files(name: str, part: Split, source: Source) -> tuple[str, ...]:
    """Where each image of a part lies, known by what is in it and its class."""
    # The part of the source that it is, or was taken from.
    for origin in (name, "validation", "test", "train"):
        whole, files = getattr(source, origin), source.files.get(origin, ())
        if whole is None or not files or not np.isin(part.ids, whole.ids).all():
            continue
        places: dict[tuple[int, int], deque[str]] = defaultdict(deque)
        for row in np.flatnonzero(np.isin(whole.ids, part.ids)).tolist():
            places[int(whole.ids[row]), int(whole.labels[row])].append(str(files[row]))
        keys = zip(part.ids.tolist(), part.labels.tolist(), strict=True)
        # Copies of one image have names of their own, in their order.
        found = (places[key] for key in keys)
        return tuple(queue.popleft() if queue else "" for queue in found)
    return ()
