"""From a folder or a set of TensorFlow Datasets to one whose images stay in their files."""

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from autogrow_jax.data import Dataset, Preprocessing, Split, parse_ground
from autogrow_jax.data.dataset import Choices, make_dataset
from autogrow_jax.data.load import set_path
from autogrow_jax.data.partition import keep_classes
from autogrow_jax.data.tfds_source import count_images
from autogrow_jax.errors import UserError, printable
from autogrow_jax.files import (
    PARTS,
    ClassFolder,
    Listing,
    Source,
    cache_root,
    is_image,
    list_folder,
    walk_files,
)
from autogrow_jax.process import cores
from autogrow_jax.stream.crops import resized_side
from autogrow_jax.stream.images import Files, Streamed
from autogrow_jax.stream.records import read_records

# Folders that decoded would take more are streamed where nobody says.
LARGE = 16 * 2**30
_FOLDER, _TFDS = "folder:", "tfds:"
# Of ImageNet's photographs, for pixels in [0, 1].
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def can_stream(name: str) -> bool:
    """Tells sets that can be read as streams by their names."""
    return name.startswith((_FOLDER, _TFDS))


def is_streamed(
    stream: str,
    name: str,
    directory: str,
    image_size: int,
    layout: str = "auto",
    cache_directory: str = "",
) -> bool:
    """Tells whether a set is read as a stream: "yes", "no", or "auto", which goes by its size.

    Raises:
      UserError: "yes" for what can be none, or without a size for its images.
    """
    if stream == "yes":
        if not can_stream(name):
            raise UserError(
                f"data.stream is 'yes', but {name!r} is no folder:PATH or tfds:NAME, as streams are"
            )
        if not image_size:
            raise UserError(
                "data.stream is 'yes' and data.image_size is 0; say to what size images are"
                " resized, as 224"
            )
    if stream != "auto" or not image_size or not can_stream(name):
        return stream == "yes"
    most = LARGE // (image_size * image_size * 3)
    if name.startswith(_TFDS):
        cache = cache_root(cache_directory, directory)
        return count_images(name.removeprefix(_TFDS), image_size, directory, cache) > most
    root = set_path(name.removeprefix(_FOLDER), directory)
    files = walk_files(root) if root.is_dir() else ()
    if not any(seen > most for seen, _ in enumerate(files, start=1)):
        return False
    # Half of them may be no images: now they are counted well.
    return len(list_folder(root, layout, is_image).class_files()) > most


def load_stream(
    name: str,
    image_size: int,
    how: Choices = Choices(),  # noqa: B008  It is a tuple.
    *,
    directory: str = "",
    classes: str = "",
    layout: str = "auto",
    background: str = "white",
    cache_directory: str = "",
    workers: int = -1,
) -> Dataset:
    """Makes a set of "folder:PATH" or "tfds:NAME", images of which are decoded when asked for.

    Parts and classes are found as for `load_dataset`, and held out by the same rules. Of a file
    only name and size are looked at before training: its id is made of these, so that a copy under
    another name counts as another image. What is called like an image has to be one. Of TFDS's
    ArrayRecord files all is read once, for labels and for ids made of the images' bytes.

    To train on, images are boxes of a random place, size and shape (`crops.random_box`), unless
    `how.crop_padding` says otherwise: then the centre, padded and cropped by so many pixels.
    Evaluated they are resized to 8/7 of `image_size` on the shorter side and cropped to their
    centre. Mean and standard deviation are those of ImageNet's photographs.

    Args:
      name: "folder:PATH" or "tfds:NAME".
      image_size: side of what the net sees, in pixels.
      how: parts and augmentation.
      directory: as for `load_dataset`.
      classes: likewise.
      layout: likewise.
      background: likewise.
      cache_directory: likewise, for labels and ids of "tfds:NAME".
      workers: processes that decode; 0 for threads of this one, -1 for one a core but one.

    Raises:
      UserError: as for `load_dataset`.
    """
    how.check()
    trained = "boxes at random" if how.crop_padding is None else "the centre"
    source = read_stream(
        name,
        image_size,
        directory=directory,
        layout=layout,
        background=background,
        cache_directory=cache_directory,
        workers=workers,
        trained=f"trained on {trained}, ",
    )
    preprocessing = Preprocessing(MEAN, STD, crop_padding=0, flip=False)
    dataset = make_dataset(keep_classes(source, classes), name, how, preprocessing=preprocessing)
    dataset = replace(dataset, resized=resized_side(image_size))
    if how.crop_padding is not None:
        return dataset
    train = dataset.train._replace(images=replace(dataset.train.images, random=True))
    return replace(dataset, train=train)


def read_stream(
    name: str,
    image_size: int,
    *,
    directory: str = "",
    layout: str = "auto",
    background: str = "white",
    cache_directory: str = "",
    workers: int = -1,
    trained: str = "",
    least_classes: int = 2,
) -> Source:
    """Lists the parts that a set comes with; the arguments are those of `load_stream`.

    `trained` says, for the notes, what of an image is trained on; `least_classes` how many classes
    a folder has to have.
    """
    ground, workers = parse_ground(background), max(cores() - 1, 1) if workers < 0 else workers
    make = partial(Streamed, size=image_size, ground=ground, workers=workers, random=False)
    notes: list[str] = []
    files: dict[str, Files] = {}
    if name.startswith(_TFDS):
        name, cache = name.removeprefix(_TFDS), cache_root(cache_directory, directory)
        parts, class_names = read_records(name, make, directory, cache)
        where = f"TFDS set {name!r}"
    else:
        root = set_path(name.removeprefix(_FOLDER), directory)
        listing = list_folder(root, layout, is_image, least_classes)
        parts, files, notes = _list_parts(root, listing, make)
        class_names, where = listing.class_names, printable(str(root))
    gigabytes = sum(part.images.nbytes for part in parts.values()) / 2**30
    known = "; an image is known by its name and size, so copies are not found" if files else ""
    said = (
        f"read as a stream ({gigabytes:,.1f} GiB decoded): {trained}evaluated on the centre of"
        f" {resized_side(image_size)} pixels{known}"
    )
    train, validation, test = (parts.get(part) for part in PARTS)
    return Source(train, validation, test, class_names, where, (said, *notes), files)


def _list_parts(
    root: Path, listing: Listing, make: Callable[[Files, np.ndarray], Streamed]
) -> tuple[dict[str, Split], dict[str, Files], list[str]]:
    """Parts and their files, and lines that say what was passed over."""
    parts, files, others = {}, {}, Counter[str]()
    for part, folders in listing.parts.items():
        files[part], *more = _list_part(root, folders, others)
        parts[part] = Split(make(files[part], np.arange(len(files[part]))), *more)
    others.update(path.suffix.lower() or "without suffix" for path in listing.outside)
    kinds = ", ".join(f"{count} {kind}" for kind, count in others.most_common())
    passed = [f"passed over as no images of a class: {kinds}"] if others else []
    return parts, files, [*listing.notes, *passed]


def _list_part(
    root: Path, folders: list[ClassFolder], others: Counter[str]
) -> tuple[Files, np.ndarray, np.ndarray]:
    """Files, labels and ids of a part; counts what is passed over, by suffix."""
    names: list[bytes] = []
    labels: list[np.ndarray] = []
    digests: list[bytes] = []
    for folder, label, files in folders:
        before = len(names)
        for path in files:
            if not is_image(path):
                others[path.suffix.lower() or "without suffix"] += 1
                continue
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                raise UserError(f"{path}: no regular file; remove it")
            name = os.fsencode(path.relative_to(root))
            content = b"%d %s" % (status.st_size, name)
            digests.append(hashlib.blake2b(content, digest_size=8).digest())
            names.append(name)
        if len(names) == before:
            raise UserError(
                f"{folder}: no image in it; remove the folder, fill it, or convert what it holds to"
                " PNG or JPEG"
            )
        labels.append(np.full(len(names) - before, label, np.int32))
    ids = np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)
    return Files(root, names), np.concatenate(labels), ids
