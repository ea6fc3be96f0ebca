"""A data set in one .npz file."""

import difflib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from autogrow_jax.data.known import list_names
from autogrow_jax.errors import UserError, printable
from autogrow_jax.files import Source, make_split, plain_name, reason, what_is

_PARTS = ("train", "val", "test")
_NAMES = (*(f"{kind}_{part}" for part in _PARTS for kind in "xy"), "class_names")
# What others call these, by what it stands for; in small letters, without signs between.
_KINDS = {"x": "x|images?|imgs?|data|features|inputs?|pixels", "y": "y|labels?|targets?|class"}
_CALLED = {
    "train": "train|training|tr",
    "val": "val|valid|validation|dev",
    "test": "test|testing|te",
}
_CLASSES = ("classes", "classname", "labelnames", "categories", "targetnames")


def read_npz(path: Path) -> Source:
    """Reads x_train, y_train, x_val, y_val, x_test, y_test, class_names, as far as they are there.

    Images are uint8, or floats in [0, 1], which are rounded to 8 bits; [N, H, W] stands for one
    channel. Labels are integers 0..K-1, [N] or [N, 1]; K is the highest of all parts plus one, or
    the number of `class_names`. Arrays of other names are passed over with a note.

    Raises:
      UserError: no such file, damaged, arrays missing or of a form not listed here, a name that is
        close to one of these.
    """
    arrays, others = _load(path)
    source = make_source(arrays, printable(str(path)), others)
    passed = (f"passed over in {path}: {', '.join(others)}",) if others else ()
    return source._replace(notes=(*source.notes, *passed))


def as_array(value: Any, name: str) -> np.ndarray:
    """What a user gives in the place of an array: a sequence, JAX's arrays, Pillow's images.

    Raises:
      UserError: names `name`; parts that differ in shape, images of Pillow that are neither grey
        nor of red, green and blue, whose numbers stand for something else.
    """
    each = () if hasattr(value, "ndim") else value if isinstance(value, list | tuple) else (value,)
    for image in each:
        if isinstance(image, Image.Image) and image.mode not in ("L", "RGB"):
            raise UserError(
                f"{name}: an image of Pillow's mode {image.mode}; image.convert('RGB') makes it one"
                " of red, green and blue"
            )
    try:
        return np.asarray(value)
    except ValueError as error:
        raise UserError(f"{name}: no array ({reason(error)}); bring all to one shape") from None


def make_source(arrays: Mapping[str, np.ndarray], where: str, others: Sequence[str] = ()) -> Source:
    """Makes a set of arrays by their names, see `read_npz`; messages call it `where`.

    `others` are the names of arrays that are passed over.
    """
    holds = f"it holds {', '.join([*arrays, *others]) or 'no array'}"
    for part in _PARTS:
        if (f"x_{part}" in arrays) != (f"y_{part}" in arrays):
            raise UserError(f"{where}: x_{part} and y_{part} must come together; {holds}")
    parts = [part for part in _PARTS if f"x_{part}" in arrays]
    if not parts:
        raise UserError(f"{where}: no x_train and y_train in it; {holds}")
    labels = {part: arrays[f"y_{part}"] for part in parts}
    if "class_names" in arrays:
        class_names = tuple(map(_to_name, arrays["class_names"].reshape(-1).tolist()))
        if "" in class_names:
            raise UserError(f"{where}: class_names has an empty name; give every class one")
        if twice := [name for name, count in Counter(class_names).items() if count > 1]:
            raise UserError(
                f"{where}: class_names has {list_names(twice)} more than once; a class needs a name"
                " of its own"
            )
    else:
        class_names = tuple(map(str, range(_count_classes(labels, where))))
    splits = {
        part: make_split(
            _to_uint8(arrays[f"x_{part}"], f"{where}, x_{part}"),
            labels[part],
            len(class_names),
            f"{where}, x_{part} and y_{part}",
        )
        for part in parts
    }
    train, val, test = (splits.get(part) for part in _PARTS)
    dark = [f"x_{part}" for part, split in splits.items() if split.images.max() <= 1]
    notes = (f"no pixel of {', '.join(dark)} is above 1 of 255: fine for masks of 0 and 1 alone",)
    return Source(train, val, test, class_names, where, notes if dark else ())


def _to_name(name: object) -> str:
    return plain_name(name.decode(errors="replace") if isinstance(name, bytes) else str(name))


def _count_classes(labels: dict[str, np.ndarray], where: str) -> int:
    """One more than the highest label, where there can be that many classes."""
    integers = [y for y in labels.values() if np.issubdtype(y.dtype, np.integer) and y.size]
    highest = max((int(y.max()) for y in integers), default=-1)
    # Each class has an image; identity numbers as labels would be names of millions of classes.
    if highest >= (count := sum(y.size for y in labels.values())):
        different = len(np.unique(np.concatenate([y.reshape(-1) for y in integers])))
        raise UserError(
            f"{where}: labels run up to {highest}, but there are {count} of them, {different} "
            "different; number the classes 0..K-1 without gaps "
            "(numpy: names, y = np.unique(y, return_inverse=True))"
        )
    return highest + 1


def _load(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays of known names, and the other names."""
    if not path.is_file():
        raise UserError(f"{path}: no such file{what_is(path) if path.exists() else ''}")
    try:
        # Opened here, because numpy leaves the file open when it turns out to be damaged.
        with path.open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it holds a single array, as .npy files do")
            others = [name for name in file.files if name not in _NAMES]
            meant = {name: close for name in others if (close := _closest(name))}
            if not meant:
                return {name: file[name] for name in file.files if name in _NAMES}, others
    except Exception as error:  # numpy and zipfile raise whatever the damaged byte leads them to.
        raise UserError(
            f"{path}: not readable as .npz ({reason(error)}); write it with "
            "numpy.savez(path, x_train=..., y_train=...), no object arrays"
        ) from error
    wrong = ", ".join(f"{name} (did you mean {close}?)" for name, close in meant.items())
    raise UserError(f"{path}: {wrong}; what is read is {', '.join(_NAMES)}; rename or remove it")


def _closest(name: str) -> str:
    """The known name that another probably stands for, "" where it is none."""
    plain = re.sub("[^a-z]", "", name.lower())
    for (kind, kinds), (part, parts) in product(_KINDS.items(), _CALLED.items()):
        if re.fullmatch(f"(?:{kinds})(?:{parts})|(?:{parts})(?:set)?(?:{kinds})", plain):
            return f"{kind}_{part}"
    close = difflib.get_close_matches(name.lower(), _NAMES, n=1, cutoff=0.8)
    return close[0] if close else "class_names" * (plain in _CLASSES)


def _to_uint8(images: np.ndarray, where: str) -> np.ndarray:
    """[N, H, W] or [N, H, W, C], uint8 or floats in [0, 1] -> uint8 [N, H, W, C]."""
    if images.ndim not in (3, 4):
        raise UserError(f"{where}: shape {list(images.shape)}, expected [N, H, W] or [N, H, W, C]")
    if images.ndim == 3:
        images = images[..., None]
    _, first, second, last = images.shape
    # Few rows of many channels, or what is square only if the channels come first.
    if last > 4 and (first <= 4 or first != second == last or 2 * first <= min(second, last)):
        raise UserError(
            f"{where}: shape {list(images.shape)} looks like [N, C, H, W], expected [N, H, W, C]; "
            "transpose it: np.transpose(x, (0, 2, 3, 1))"
        )
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating):
        raise UserError(f"{where}: {images.dtype}, expected uint8 or floats in [0, 1]")
    if images.size and not (images.min() >= 0 and images.max() <= 1):  # NaN fails this too
        raise UserError(
            f"{where}: floats from {images.min():.9g} to {images.max():.9g}, expected [0, 1]; undo "
            "any normalisation, or store pixels 0..255 as uint8"
        )
    return np.rint(images * 255).astype(np.uint8)
