"""Any image-classification set of TensorFlow Datasets, prepared once and then kept as arrays."""

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from autogrow_jax.data.cache import new_entry, read_entry, write_info, write_split
from autogrow_jax.data.pixels import resize_center_crop
from autogrow_jax.data.types import Source, Split, make_split
from autogrow_jax.errors import UserError

_PARTS = ("train", "validation", "test")


def read_tfds(
    name: str, image_size: int, directory: str, cache: Path, otherwise: str = ""
) -> Source:
    """Reads a set from the cache of arrays, or through TFDS, and then fills the cache.

    Only the first time needs `tensorflow_datasets`, and TensorFlow as well unless TFDS has already
    prepared the set in its ArrayRecord format. The parts "train", "validation" and "test" are used
    where they exist and are labelled; other parts are not.

    Args:
      name: as TFDS calls it, with `/config` or `:version` if wanted.
      image_size: images are resized and centre-cropped to this side, in pixels; 0 leaves them.
      directory: TFDS's data folder, also searched for files TFDS wants fetched by hand; "" is
        TFDS's own default.
      cache: folder for the arrays.
      otherwise: a second way to get this set, for the error messages.

    Returns:
      Images uint8 [N, H, W, C].

    Raises:
      UserError: TFDS or TensorFlow is not installed, no such set, it cannot be fetched or
        prepared, it is not for image classification, or its images differ in size.
    """
    slug = "".join(c if c.isalnum() or c in "_.-" else "-" for c in name)
    entry = cache / (f"tfds-{slug}-{image_size}" if image_size else f"tfds-{slug}")
    source = read_entry(entry)
    if source is None:
        builder = _load_builder(name, directory, otherwise)
        if not builder.is_prepared():
            _prepare(builder, name, directory, otherwise)
        _fill(builder, name, image_size, entry)
        source = read_entry(entry)
        assert source is not None
    return source._replace(where=f"TFDS set {name!r}")


def _load_builder(name: str, directory: str, otherwise: str) -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(
            f"the set {name!r} is read through tensorflow_datasets, which cannot be imported "
            f"({error}): pip install 'autogrow_jax[tfds]'{_or(otherwise)}"
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


def _prepare(builder: Any, name: str, directory: str, otherwise: str) -> None:
    # Asked before TFDS tries: it would first wait minutes for downloads it cannot use.
    if not _has_tensorflow():
        raise UserError(
            f"TFDS has not prepared the set {name!r} in {directory or 'its data folder'} yet, and "
            "needs TensorFlow to do so, once: pip install 'autogrow_jax[tfds]'"
            f"{_or(otherwise)}"
        )
    import tensorflow_datasets as tfds

    config = tfds.download.DownloadConfig(manual_dir=directory or None)
    try:
        # ArrayRecord is the format that can be read without TensorFlow.
        builder.download_and_prepare(download_config=config, file_format="array_record")
    except Exception as error:  # network, disk, checksum, a manual step: each its own class
        raise UserError(
            f"TFDS could not prepare the set {name!r} ({type(error).__name__}: {error}); check the "
            f"network and the disk{_or(otherwise)}"
        ) from error


def _or(otherwise: str) -> str:
    return f"\nOr: {otherwise}" if otherwise else ""


def _fill(builder: Any, name: str, image_size: int, entry: Path) -> None:
    image_key, label_key, class_names = _keys(builder, name)
    with new_entry(entry) as partial:
        for part in _PARTS:
            if part not in builder.info.splits:
                continue
            where = f"TFDS set {name!r}, part {part!r}"
            rows = [
                (resize_center_crop(_as_pixels(example[image_key], where), image_size), label)
                for example in _examples(builder, part)
                if (label := int(example[label_key])) >= 0 or part == "train"
            ]
            if not rows:  # TFDS labels the images of a test part without labels -1.
                continue
            split = _stack(rows, len(class_names), where)
            write_split(partial, part, split)
        if not (partial / "train_images.npy").exists():
            raise UserError(
                f"TFDS set {name!r} has the parts {', '.join(builder.info.splits)}, expected "
                "'train' among them"
            )
        write_info(partial, class_names, source=name, version=str(builder.version))


def _keys(builder: Any, name: str) -> tuple[str, str, tuple[str, ...]]:
    """The keys of image and label in an example, and the class names."""
    features, keys = builder.info.features, builder.info.supervised_keys
    if keys is None or len(keys) != 2 or not hasattr(features[keys[1]], "names"):
        raise UserError(
            f"TFDS set {name!r} is not for image classification: its features are {features}, "
            "expected an image with one class label"
        )
    image_key, label_key = keys
    return image_key, label_key, tuple(features[label_key].names)


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


def _stack(rows: list[tuple[np.ndarray, int]], num_classes: int, where: str) -> Split:
    shape = rows[0][0].shape
    for pixels, _ in rows:
        if pixels.shape != shape:
            raise UserError(
                f"{where}: images differ in shape ({list(shape)}, {list(pixels.shape)}); set the "
                "image size, and all are resized to it"
            )
    images = np.stack([pixels for pixels, _ in rows])
    return make_split(images, np.asarray([label for _, label in rows]), num_classes, where)
