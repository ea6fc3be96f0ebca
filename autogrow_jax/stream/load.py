"""From a folder to a data set whose images stay in their files."""

import hashlib
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from autogrow_jax.data import Dataset, Preprocessing, Split, parse_ground
from autogrow_jax.data.dataset import Choices, make_dataset
from autogrow_jax.data.load import set_path
from autogrow_jax.data.partition import keep_classes
from autogrow_jax.errors import UserError, printable
from autogrow_jax.files import ClassFolder, Listing, Source, is_image, list_folder
from autogrow_jax.process import cores
from autogrow_jax.stream.crops import resized_side
from autogrow_jax.stream.images import Files, Streamed

# Folders that decoded would take more are streamed where nobody says.
LARGE = 16 * 2**30
# Of ImageNet's photographs, for pixels in [0, 1].
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def is_streamed(
    stream: str, name: str, directory: str, image_size: int, layout: str = "auto"
) -> bool:
    """Tells whether a set is read as a stream: "yes", "no", or "auto", which goes by its size.

    Raises:
      UserError: "yes" for what is no folder, or without a size for its images.
    """
    if stream == "yes":
        if not name.startswith("folder:"):
            raise UserError(f"data.stream is 'yes', but {name!r} is no folder:PATH, as streams are")
        if not image_size:
            raise UserError(
                "data.stream is 'yes' and data.image_size is 0; say to what size images are"
                " resized, as 224"
            )
    if stream != "auto" or not image_size or not name.startswith("folder:"):
        return stream == "yes"
    root = set_path(name.removeprefix("folder:"), directory)
    most = LARGE // (image_size * image_size * 3)
    seen = 0
    for _, folders, files in os.walk(root, followlinks=False):
        seen += len(files)
        if seen > most:  # Half of them may be no images: now they are counted well.
            listing = list_folder(root, layout, is_image)
            return len(listing.class_files()) > most
        folders.sort()
    return False


def load_stream(
    name: str,
    image_size: int,
    how: Choices = Choices(),  # noqa: B008  It is a tuple.
    *,
    directory: str = "",
    classes: str = "",
    layout: str = "auto",
    background: str = "white",
    workers: int = -1,
) -> Dataset:
    """Makes a set of "folder:PATH" whose images are decoded when they are asked for.

    Parts and classes are found as for `load_dataset`, and held out by the same rules. Of a file
    only name and size are looked at before training: its id is made of these, so that a copy under
    another name counts as another image. What is called like an image has to be one.

    To train on, images are boxes of a random place, size and shape (`crops.random_box`), unless
    `how.crop_padding` says otherwise: then the centre, padded and cropped by so many pixels.
    Evaluated they are resized to 8/7 of `image_size` on the shorter side and cropped to their
    centre. Mean and standard deviation are those of ImageNet's photographs.

    Args:
      name: "folder:PATH".
      image_size: side of what the net sees, in pixels.
      how: parts and augmentation.
      directory: as for `load_dataset`.
      classes: likewise.
      layout: likewise.
      background: likewise.
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
    workers: int = -1,
    trained: str = "",
) -> Source:
    """Lists the parts that a folder comes with; the arguments are those of `load_stream`.

    `trained` says, for the notes, what of an image is trained on.
    """
    ground = parse_ground(background)
    root = set_path(name.removeprefix("folder:"), directory)
    listing = list_folder(root, layout, is_image)
    workers = max(cores() - 1, 1) if workers < 0 else workers
    parts, files, others = {}, {}, Counter[str]()
    for part, folders in listing.parts.items():
        found = _list_part(root, folders, others)
        files[part] = found[0]
        rows = np.arange(len(files[part]))
        images = Streamed(files[part], rows, image_size, ground, workers, random=False)
        parts[part] = Split(images, *found[1:])
    return Source(
        parts.get("train"),
        parts.get("validation"),
        parts.get("test"),
        listing.class_names,
        printable(str(root)),
        tuple(_describe(listing, others, image_size, trained, parts)),
        files,
    )


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
            name = os.fsencode(path.relative_to(root))
            size = path.stat().st_size
            digests.append(hashlib.blake2b(b"%d %s" % (size, name), digest_size=8).digest())
            names.append(name)
        if len(names) == before:
            raise UserError(
                f"{folder}: no image in it; remove the folder, fill it, or convert what it holds to"
                " PNG or JPEG"
            )
        labels.append(np.full(len(names) - before, label, np.int32))
    ids = np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)
    return Files(root, names), np.concatenate(labels), ids


def _describe(
    listing: Listing, others: Counter[str], size: int, trained: str, parts: dict[str, Split]
) -> list[str]:
    """Says how the set is read, and what was passed over."""
    others.update(path.suffix.lower() or "without suffix" for path in listing.outside)
    gigabytes = sum(part.images.nbytes for part in parts.values()) / 2**30
    lines = [
        f"read as a stream ({gigabytes:,.1f} GiB decoded): {trained}evaluated on the"
        f" centre of {resized_side(size)} pixels; an image is known by its name and size, so copies"
        " are not found",
        *listing.notes,
    ]
    if others:
        kinds = ", ".join(f"{count} {kind}" for kind, count in others.most_common())
        lines.append(f"passed over as no images of a class: {kinds}")
    return lines
