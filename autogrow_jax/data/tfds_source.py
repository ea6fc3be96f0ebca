"""Any image-classification set of TensorFlow Datasets, prepared once and then kept as arrays."""

import hashlib
import importlib.util
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from autogrow_jax.errors import UserError
from autogrow_jax.files import (
    PARTS,
    Source,
    Split,
    array_path,
    entry_name,
    image_ids,
    make_split,
    open_entry,
    resize_center_crop,
    write_info,
    write_split,
)
from autogrow_jax.process import user_path


def read_tfds(
    name: str, image_size: int, directory: str, cache: Path, otherwise: str = ""
) -> Source:
    """Reads a set from the cache of arrays, or through TFDS, and then fills the cache.

    Only the first time needs `tensorflow_datasets`, and TensorFlow as well unless TFDS has already
    prepared the set in its ArrayRecord format. The parts "train", "validation" and "test" are used
    where they exist and are labelled; other parts are not.

    The name may end in `/config` or `:version`. In `directory`, "" for TFDS's own, lie its data and
    the files that it wants fetched by hand. `otherwise` is a second way to get this set, for the
    error messages. Images are resized and centre-cropped to `image_size` pixels, unless it is 0.

    Raises:
      UserError: TFDS or TensorFlow is not installed, no such set, it cannot be fetched or
        prepared, it is not for image classification, or its images differ in size.
    """

    def fill(folder: Path) -> None:
        way_out = f"\nOr: {otherwise}" if otherwise else ""
        _fill(open_builder(name, directory, way_out), name, image_size, folder)

    return open_entry(_entry(name, image_size, directory, cache), fill, f"TFDS set {name!r}")


def _entry(name: str, image_size: int, directory: str, cache: Path) -> Path:
    """The place of a set's arrays: sets of one name in two directories need not be the same."""
    more: list[object] = [image_size] if image_size else []
    if directory:
        where = os.fsencode(user_path(directory).resolve())
        more.append(hashlib.blake2b(where, digest_size=6).hexdigest())
    return cache / entry_name("tfds", name, *more)


def count_images(name: str, image_size: int, directory: str, cache: Path) -> int:
    """Counts the images of the parts that are read, labelled or not, without reading them.

    Raises:
      UserError: as `read_tfds`, where the set is not in the cache.
    """
    entry = _entry(name, image_size, directory, cache)
    paths = [array_path(entry, part, "labels") for part in PARTS]
    if found := [path for path in paths if path.exists()]:
        return sum(len(np.load(path, mmap_mode="r")) for path in found)
    splits = open_builder(name, directory).info.splits
    return sum(splits[part].num_examples for part in PARTS if part in splits)


def open_builder(name: str, directory: str, way_out: str = "") -> Any:
    """Gives TFDS's builder of a set, which is prepared first where it is not.

    Raises:
      UserError: as `read_tfds`; `way_out` ends some of the messages.
    """
    builder = _load_builder(name, directory, way_out)
    if not builder.is_prepared():
        _prepare(builder, name, directory, way_out)
    return builder


def find_labels(builder: Any, name: str) -> tuple[str, str, tuple[str, ...]]:
    """Names the features that are the image and its label, and the classes.

    Raises:
      UserError: the set is not for image classification.
    """
    features, keys = builder.info.features, builder.info.supervised_keys
    if keys is None or len(keys) != 2 or not hasattr(features[keys[1]], "names"):
        raise UserError(
            f"TFDS set {name!r} is not for image classification: its features are {features}, "
            "expected an image with one class label"
        )
    return *keys, tuple(features[keys[1]].names)


def _load_builder(name: str, directory: str, way_out: str) -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(
            f"the set {name!r} is read through tensorflow_datasets, which cannot be imported "
            f"({error}): pip install 'autogrow_jax[tfds]'{way_out}"
        ) from error
    try:
        return tfds.builder(name, data_dir=directory or None)
    except tfds.core.DatasetNotFoundError as error:
        raise UserError(
            f"TFDS has no set {name!r} ({str(error).splitlines()[0]}); "
            "https://www.tensorflow.org/datasets/catalog lists them"
        ) from error
    except (ValueError, ImportError) as error:  # a wrong config or version, a module it wants
        raise UserError(f"TFDS cannot open the set {name!r}: {error}") from error


def _has_tensorflow() -> bool:
    return importlib.util.find_spec("tensorflow") is not None


def _prepare(builder: Any, name: str, directory: str, way_out: str) -> None:
    # Asked before TFDS tries: it would first wait minutes for downloads it cannot use.
    if not _has_tensorflow():
        raise UserError(
            f"TFDS has not prepared the set {name!r} in {directory or 'its data folder'} yet, and "
            f"needs TensorFlow to do so, once: pip install 'autogrow_jax[tfds]'{way_out}"
        )
    import tensorflow_datasets as tfds

    config = tfds.download.DownloadConfig(manual_dir=directory or None)
    try:
        # ArrayRecord is the format that can be read without TensorFlow.
        builder.download_and_prepare(download_config=config, file_format="array_record")
    except Exception as error:  # network, disk, checksum, a manual step: each its own class
        raise UserError(
            f"TFDS could not prepare the set {name!r} ({type(error).__name__}: {error}); check the "
            f"network and the disk{way_out}"
        ) from error


def _fill(builder: Any, name: str, image_size: int, folder: Path) -> None:
    image_key, label_key, class_names = find_labels(builder, name)
    parts = []
    for part in (part for part in PARTS if part in builder.info.splits):
        where = f"TFDS set {name!r}, part {part!r}"
        rows = [
            (resize_center_crop(pixels, image_size), label, image_ids([pixels]))
            for example in _examples(builder, part)
            if (label := int(example[label_key])) >= 0 or part == "train"
            for pixels in [_as_pixels(example[image_key], where)]
        ]
        if rows:  # TFDS labels the images of a test part without labels -1.
            write_split(folder, part, _stack(rows, len(class_names), where))
            parts.append(part)
    if not parts:
        raise UserError(
            f"TFDS set {name!r} has the parts {', '.join(builder.info.splits)}, none of which is"
            f" labelled and one of {', '.join(PARTS)}"
        )
    write_info(folder, class_names, source=name, version=str(builder.version))


def _examples(builder: Any, part: str) -> Iterable[Any]:
    try:
        source = builder.as_data_source(part)
    except NotImplementedError as error:  # prepared earlier, by others, as TFRecord
        if not _has_tensorflow():
            raise UserError(
                f"{builder.data_path} was prepared in a format only TensorFlow reads: "
                "pip install 'autogrow_jax[tfds]' for this once"
            ) from error
        import tensorflow_datasets as tfds

        return tfds.as_numpy(builder.as_dataset(split=part))
    return (source[i] for i in range(len(source)))


def _as_pixels(image: Any, where: str) -> np.ndarray:
    pixels = np.asarray(image)
    if pixels.ndim != 3 or pixels.dtype != np.uint8 or pixels.shape[2] not in (1, 3):
        raise UserError(
            f"{where}: an image is {pixels.dtype} {list(pixels.shape)}, expected uint8 [H, W, C] "
            "with 1 or 3 channels"
        )
    return pixels


def _stack(rows: list[tuple[np.ndarray, int, np.ndarray]], num_classes: int, where: str) -> Split:
    images, labels, ids = zip(*rows, strict=True)
    shapes = list({pixels.shape: list(pixels.shape) for pixels in images}.values())
    if len(shapes) > 1:
        raise UserError(
            f"{where}: images differ in shape ({shapes[0]}, {shapes[1]}); set the image size, and "
            "all are resized to it"
        )
    ids = np.concatenate(ids)
    return make_split(np.stack(images), np.asarray(labels), num_classes, where, ids)
