"""Other images made such as a run's net takes, and the sets they come from."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from autogrow_jax.data.dataset import Dataset
from autogrow_jax.data.known import Known, describe_size, list_changes, list_names
from autogrow_jax.data.load import read_source
from autogrow_jax.data.npz import as_array
from autogrow_jax.errors import UserError
from autogrow_jax.files import Preprocessing, Source, Split, pad_images, take

# Pillow's, by which a colour image becomes a grey one.
_LUMA = (299, 587, 114)


def load_other(
    name: str,
    known: Known,
    *,
    directory: str = "",
    cache_directory: str = "",
    layout: str = "auto",
    background: str = "white",
    source: Source | None = None,
) -> Dataset:
    """Loads a set for a net that was trained on another, of which `known` tells.

    That is its test part; where it has none its validation part; where it has no parts, all of it.
    The images are resized, padded and normalised as the run's were; see `adapt` for their classes.

    Args:
      name: as for `load_dataset`, also of a set that has no training part.
      known: of the run's data.
      directory: as for `load_dataset`.
      cache_directory: likewise.
      layout: likewise.
      background: likewise.
      source: the set, where it is read already.

    Returns:
      A set whose three parts are one, and whose notes say what was chosen and changed.

    Raises:
      UserError: as for `load_dataset` and `adapt`.
    """
    height, width = known.source_size
    side = height if height == width else 0
    how = cache_directory, layout, background
    source = source or read_source(name, directory, side, *how, least_classes=1)
    parts = {"test": source.test, "validation": source.validation, "train": source.train}
    which, part = next((name, part) for name, part in parts.items() if part is not None)
    whole = which == "train"
    adapted, lines = adapt(part, source.class_names, known, source.where)
    lines.insert(
        0,
        f"evaluated on {len(adapted.labels):,} images of {source.where}: "
        + ("all that it has" if whole else f"its {which} part"),
    )
    return Dataset(
        name=name,
        train=adapted,
        validation=adapted,
        test=adapted,
        **_as_the_net_has(known),
        validation_source="test",
        where=source.where,
        source_size=known.source_size,
        resized=known.resized,
        notes=(*lines, *source.notes),
    )


def _as_the_net_has(known: Known) -> dict[str, Any]:
    """What the net decides of a set that it is evaluated on: nothing is augmented."""
    return {
        "num_classes": len(known.class_names),
        "class_names": known.class_names,
        "preprocessing": Preprocessing(known.mean, known.std, crop_padding=0, flip=False),
        "files": {},  # Images of other classes are left out.
    }


def adapt_parts(dataset: Dataset, known: Known, is_own: bool = True) -> Dataset:
    """Makes a set with parts, a run's own as it is now or another, such as its net takes.

    It is for evaluation alone.

    Returns:
      A set whose training part is its test part, and whose notes say what changed since the run
      began.
    """
    changes = list_changes(known, dataset.known())
    test, lines = adapt(dataset.test, dataset.class_names, known, dataset.where)
    validation, number = test, f"{len(test.labels):,} test images"
    if dataset.validation is not dataset.test:
        validation, _ = adapt(dataset.validation, dataset.class_names, known, dataset.where)
        number += f", {len(validation.labels):,} validation images"
    notes = [f"evaluated on {'its own data, ' if is_own else ''}{dataset.where}: {number}"]
    if changes and is_own:
        notes.append(f"they changed since it was trained: {'; '.join(changes)}")
    return replace(
        dataset,
        train=test,
        validation=validation,
        test=test,
        **_as_the_net_has(known),
        notes=(*notes, *lines),
    )


def adapt(
    part: Split, class_names: Sequence[str], known: Known, where: str
) -> tuple[Split, list[str]]:
    """Makes images of any set such as the run's net takes, and says what was done to them.

    Classes are matched by name; images of classes that the net does not know are left out. Grey
    images become colour ones and the reverse. Smaller ones are padded where the run padded its own.

    Raises:
      UserError: names `where`; no class that the net knows, another size or number of channels.
    """
    labels, lines = _match(part, class_names, known, where)
    kept = labels >= 0
    if not kept.all():
        part = take(part, kept)
    labels = labels[kept]
    images, more = fit_images(part.images, known, where)
    return Split(images, labels, part.ids), lines + more


def list_images(images: Any) -> list[np.ndarray]:
    """Takes an array of images or a sequence of them apart; UserError of one alone, see `as_array`.

    Whether it is NumPy's, JAX's or Pillow's.
    """
    if hasattr(images, "ndim") or not isinstance(images, Iterable):
        images = as_array(images, "images")
        if images.ndim < 3 or (images.ndim == 3 and images.shape[2] <= 4):
            raise UserError(
                f"images are of shape {list(images.shape)}, which is one image; give a list of"
                " images, or image[None]"
            )
    return [as_array(image, "images") for image in images]


def fit_images(images: np.ndarray, known: Known, where: str) -> tuple[np.ndarray, list[str]]:
    """Makes uint8 [N, H, W, C] such as the run's net takes, and says what was done to them.

    Raises:
      UserError: names `where`; another size or number of channels.
    """
    lines = []
    if images.shape[1:3] != known.image_shape[:2]:
        images = _pad(images, known, where)
    channels = images.shape[3], known.image_shape[2]
    if channels == (1, 3):
        # A view: nothing is copied.
        images = np.broadcast_to(images, (*images.shape[:3], 3))
        lines.append("its images are grey, the run's are in colour: all three channels are alike")
    elif channels == (3, 1):
        grey = np.zeros(images.shape[:3], np.uint32)
        for channel, weight in enumerate(_LUMA):
            grey += images[..., channel] * np.uint32(weight)
        images = ((grey + 500) // 1000).astype(np.uint8)[..., None]
        lines.append("its images are in colour, the run's are grey: only their brightness is taken")
    elif channels[0] != channels[1]:
        raise UserError(
            f"{where}: images of {channels[0]} channels, but the net was trained on images of"
            f" {channels[1]}; bring images of as many"
        )
    return images, lines


def _match(
    part: Split, class_names: Sequence[str], known: Known, where: str
) -> tuple[np.ndarray, list[str]]:
    """The labels by the net's numbers, -1 for classes it does not know, and what to say."""
    numbers = {name: number for number, name in enumerate(known.class_names)}
    places = np.array([numbers.get(name, -1) for name in class_names], np.int32)
    labels = places[part.labels]
    counts = np.bincount(part.labels, minlength=len(class_names))
    if not (labels >= 0).any():
        raise UserError(
            f"{where}: none of its classes is one that the net knows. It has"
            f" {list_names(class_names)}; the net was trained on {list_names(known.class_names)}."
            " Name them alike (folders by their names, .npz files by an array class_names)"
        )
    unknown = [
        f"{name} ({counts[number]:,} images)"
        for number, name in enumerate(class_names)
        if places[number] < 0 and counts[number]
    ]
    present = set(labels.tolist())
    lacking = [name for number, name in enumerate(known.class_names) if number not in present]
    lines = []
    if unknown:
        lines.append(f"the net does not know {list_names(unknown)}: left out")
    if lacking:
        lines.append(f"it has no images of {list_names(lacking)}: the others are evaluated")
    if (np.diff(places[places >= 0]) < 0).any():
        lines.append("its classes lie in another order than the net's: matched by name")
    return labels, lines


def _pad(images: np.ndarray, known: Known, where: str) -> np.ndarray:
    size, wanted, source = images.shape[1:3], known.image_shape[:2], known.source_size
    if size == source:  # Smaller ones would show things smaller than the net knows them.
        return pad_images(images, wanted[0], where)
    took = f", padded from {describe_size(source)}" if source != wanted else ""
    raise UserError(
        f"{where}: images of {describe_size(size)} pixels, but the net was trained on"
        f" {describe_size(wanted)}{took}; bring images of that size"
    )
