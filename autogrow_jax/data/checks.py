"""Checks every reader's result passes, so that no step downstream meets a malformed array."""

import numpy as np

from autogrow_jax.data.types import Source, Split
from autogrow_jax.errors import UserError


def make_split(images: np.ndarray, labels: np.ndarray, num_classes: int, where: str) -> Split:
    """Checks one part of a set and gives its labels their final type.

    Args:
      images: uint8 [N, H, W, C].
      labels: integers [N] or [N, 1].
      num_classes: labels must lie in 0..num_classes - 1.
      where: the file, for messages.

    Returns:
      The part, labels as int32 [N].

    Raises:
      UserError: no images, another shape or type, counts that differ, labels out of range.
    """
    if images.ndim != 4 or images.dtype != np.uint8:
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
    return Split(images, labels.astype(np.int32))


def check_source(source: Source) -> None:
    """Checks that the parts of a set fit together.

    Raises:
      UserError: parts whose images differ in shape, fewer than two classes, a class without any
        training image.
    """
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
