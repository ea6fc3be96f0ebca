"""A data set in one .npz file."""

import zipfile
from pathlib import Path

import numpy as np

from autogrow_jax.data.types import Source, make_split
from autogrow_jax.errors import UserError

_PARTS = ("train", "val", "test")


def read_npz(path: Path) -> Source:
    """Reads x_train, y_train and, where present, x_val, y_val, x_test, y_test, class_names.

    Images are uint8, or floats in [0, 1], which are rounded to 8 bits; [N, H, W] stands for one
    channel. Labels are integers 0..K-1, [N] or [N, 1]; K is the highest of all parts plus one, or
    the number of `class_names`.

    Raises:
      UserError: no such file, damaged, arrays missing or of a form not listed here.
    """
    arrays = _load(path)
    holds = f"the file holds {', '.join(arrays) or 'no array'}"
    for part in _PARTS:
        if (f"x_{part}" in arrays) != (f"y_{part}" in arrays):
            raise UserError(f"{path}: x_{part} and y_{part} must come together; {holds}")
    parts = [part for part in _PARTS if f"x_{part}" in arrays]
    if not parts:
        raise UserError(f"{path}: no x_train and y_train in it; {holds}")
    labels = {part: arrays[f"y_{part}"] for part in parts}
    if "class_names" in arrays:
        class_names = tuple(str(name) for name in arrays["class_names"].reshape(-1))
    else:
        integers = [y for y in labels.values() if np.issubdtype(y.dtype, np.integer) and y.size]
        num_classes = max((int(y.max()) for y in integers), default=-1) + 1
        class_names = tuple(map(str, range(num_classes)))
    splits = {
        part: make_split(
            _to_uint8(arrays[f"x_{part}"], f"{path}, x_{part}"),
            labels[part],
            len(class_names),
            f"{path}, x_{part} and y_{part}",
        )
        for part in parts
    }
    train, validation, test = (splits.get(part) for part in _PARTS)
    return Source(train, validation, test, class_names, str(path))


def _load(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        # Opened here, because numpy leaves the file open when it turns out to be damaged.
        with path.open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it holds a single array, as .npy files do")
            return {name: file[name] for name in file.files}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: not readable as .npz ({error}); write it with "
            "numpy.savez(path, x_train=..., y_train=...), no object arrays"
        ) from error


def _to_uint8(images: np.ndarray, where: str) -> np.ndarray:
    """[N, H, W] or [N, H, W, C], uint8 or floats in [0, 1] -> uint8 [N, H, W, C]."""
    if images.ndim not in (3, 4):
        raise UserError(f"{where}: shape {list(images.shape)}, expected [N, H, W] or [N, H, W, C]")
    if images.ndim == 3:
        images = images[..., None]
    if images.shape[1] in (1, 3) and images.shape[3] > 4:
        raise UserError(
            f"{where}: shape {list(images.shape)} looks like [N, C, H, W]; "
            "transpose to [N, H, W, C] first (numpy: x.transpose(0, 2, 3, 1))"
        )
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating):
        raise UserError(f"{where}: {images.dtype}, expected uint8 or floats in [0, 1]")
    if images.size and not (images.min() >= 0 and images.max() <= 1):  # NaN fails this too
        raise UserError(
            f"{where}: floats from {images.min():g} to {images.max():g}, expected [0, 1]; undo "
            "any normalisation, or store pixels 0..255 as uint8"
        )
    return np.rint(images * 255).astype(np.uint8)
