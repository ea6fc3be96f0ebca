"""What a data set is, once loaded: arrays in three parts, and how its pixels are treated."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
    """One part of a data set.

    Attributes:
      images: uint8 [N, H, W, C], pixels 0..255; may be a read-only memory map.
      labels: int32 [N], class indices from 0.
    """

    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Preprocessing:
    """What happens to a batch inside the training step; hashable, so it can be a static argument.

    Attributes:
      mean: per channel, for pixels in [0, 1]; length C.
      std: per channel, for pixels in [0, 1]; length C.
      crop_padding: zeros put on each side before a random crop back, in pixels; 0 means no crop.
      flip: whether half of the training images are mirrored left to right.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_padding: int
    flip: bool


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
    """

    name: str
    train: Split
    validation: Split
    test: Split
    num_classes: int
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    validation_source: str

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width (pixels) and number of channels of every image."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels


class Source(NamedTuple):
    """What a reader hands over: the parts a set comes with, before anything is held out.

    Attributes:
      train: the set's training part.
      validation: the set's own validation part, if it brings one.
      test: the set's test part, if it brings one.
      class_names: one name per class.
      where: the file or folder it was read from, for messages.
    """

    train: Split
    validation: Split | None
    test: Split | None
    class_names: tuple[str, ...]
    where: str
