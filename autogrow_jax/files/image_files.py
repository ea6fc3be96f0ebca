"""Image files: which files are images, and what their pixels are as a viewer shows them."""

import functools
import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageColor

from autogrow_jax.errors import UserError
from autogrow_jax.files.pixels import resize_center_crop
from autogrow_jax.files.types import image_ids, reason

# What a file is called that should be an image; others are opened to see.
SUFFIXES = {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".ppm"}
SUFFIXES |= {".pgm", ".pbm", ".pnm", ".tif", ".tiff", ".avif", ".jp2", ".heic", ".heif"}
# Pillow's names. It knows more, of which some take any text for an image.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "PPM", "TIFF", "AVIF", "JPEG2000")
_GREY_MODES = frozenset(("1", "L", "LA"))
_DEEP_MODES = frozenset(("I", "F", "I;16", "I;16B", "I;16L", "I;16N"))
_ORIENTATION = 0x0112  # The tag of EXIF.
# How an image is turned to stand upright, by the tag's value.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


# Left, top, right and bottom in pixels, which may be fractions.
Box = tuple[float, float, float, float]
Choose = Callable[[int, int], Box]


class Header(NamedTuple):
    """What is known of an image before it is decoded."""

    size: tuple[int, int]  # Height and width as shown, in pixels.
    grey: bool
    transparent: bool  # Whether its format tells transparent pixels from others.
    animated: bool  # Whether it has more frames or pages than the first.


class Decoded(NamedTuple):
    """An image that was read."""

    pixels: np.ndarray  # uint8 [H, W, C].
    id: np.ndarray  # uint64 [1], of the file's bytes.
    laid: bool  # Whether some of it was transparent, and so laid on the ground.


class UnreadableImage(UserError):
    """A file that should be an image and is none, or none that can be read."""


def is_image(path: Path) -> bool:
    """Tells images, and files that are called like one, from others."""
    return path.suffix.lower() in SUFFIXES or image_header(path) is not None


def image_header(path: Path) -> Header | None:
    """Reads what is known of an image file without decoding it; None for a file of another kind.

    Raises:
      UserError: more than 8 bits a channel, or no image though its name says so.
    """
    try:
        _check_regular(path)
        with _open(path) as image:
            mode, (width, height), deep = image.mode, image.size, _is_deep(image)
            size = (width, height) if _orientation(image) >= 5 else (height, width)
            animated = image.format != "MPO" and getattr(image, "is_animated", False)
            header = Header(size, mode in _GREY_MODES, _is_transparent(image), animated)
    except Exception as error:  # Pillow raises whatever the damaged byte leads it to.
        if path.suffix.lower() not in SUFFIXES:
            return None
        raise _unreadable(path, error) from error
    if deep:
        raise UnreadableImage(
            f"{path}: more than 8 bits a channel (mode {mode}); convert it to 8 bits"
        )
    return header


def read_bytes(path: Path) -> bytes:
    """The content of an image file; UserError of what is none, such as a pipe, or not readable."""
    try:
        _check_regular(path)
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _check_regular(path: Path) -> None:
    if not path.is_file():  # To open a pipe waits for whoever writes into it.
        raise ValueError("no regular file" if path.exists() else "no such file")


def decode_image(path: Path, mode: str, image_size: int, ground: tuple[int, int, int]) -> Decoded:
    """Decodes the first frame of an image file, upright, and resizes it.

    `mode` is "L" or "RGB"; the colour `ground` shows where the image is transparent.

    Raises:
      UserError: the file is damaged.
    """
    try:
        data = path.read_bytes()
        with _open(io.BytesIO(data)) as file:
            image, laid = _upright(file, _orientation(file), mode, ground)
    except Exception as error:
        raise _unreadable(path, error) from error
    return Decoded(resize_center_crop(np.asarray(image), image_size), image_ids([data]), laid)


def decode_crop(
    data: bytes, where: Path, choose: Choose, size: int, ground: tuple[int, int, int]
) -> np.ndarray:
    """Decodes a box of an image, upright and in colour: uint8 [size, size, 3].

    Of a JPEG no finer than twice what is kept of it, which of large photographs takes a fraction of
    the time.

    Args:
      data: the content of the file.
      where: what messages call it.
      choose: (height, width) to the box.
      size: of the result, to which the box is resized (bilinear, antialiased).
      ground: the colour that shows where the image is transparent.

    Raises:
      UserError: the file is damaged, or has more than 8 bits a channel.
    """
    try:
        with _open(io.BytesIO(data)) as file:
            if _is_deep(file):
                raise ValueError(f"more than 8 bits a channel, mode {file.mode}")
            orientation = _orientation(file)
            turned = orientation >= 5
            full = file.size[::-1] if turned else file.size
            box = choose(full[1], full[0])
            finest = 2 * size / np.array([box[2] - box[0], box[3] - box[1]])
            least = tuple(np.ceil(finest * full).astype(int).tolist())
            file.draft("RGB", least[::-1] if turned else least)
            image, _ = _upright(file, orientation, "RGB", ground)
        scale = np.divide(image.size, full)
        box = tuple((np.array(box) * [*scale, *scale]).tolist())
        return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box))
    except Exception as error:
        raise _unreadable(where, error) from error


def read_image(path: Path, ground: tuple[int, int, int]) -> np.ndarray:
    """Decodes an image file on its own, grey or in colour as it is: uint8 [H, W, 1 or 3].

    Raises:
      UserError: no image, a damaged one, more than 8 bits a channel.
    """
    header = image_header(path)
    if header is None:
        raise UserError(f"{path}: {'no image' if os.path.exists(path) else 'no such file'}")
    grey = header.grey and not (header.transparent and len(set(ground)) > 1)
    return decode_image(path, "L" if grey else "RGB", 0, ground).pixels


def parse_ground(background: str) -> tuple[int, int, int]:
    """Red, green and blue, 0..255, of a colour's name or hexadecimal; UserError of another."""
    try:
        red, green, blue = ImageColor.getrgb(background)[:3]
    except ValueError as error:
        raise UserError(
            f"background is {background!r}, expected a colour such as 'white' or '#ff8000'"
        ) from error
    return red, green, blue


def _open(source: Path | io.BytesIO) -> Image.Image:
    return Image.open(source, formats=[name for name in _FORMATS if name in _pillow_knows()])


@functools.cache
def _pillow_knows() -> frozenset[str]:
    Image.init()  # Else it knows the commonest only.
    return frozenset(Image.OPEN)


def _upright(
    file: Image.Image, orientation: int, mode: str, ground: tuple[int, int, int]
) -> tuple[Image.Image, bool]:
    """Decodes an image, turned as its tag says; says whether any of the ground is seen."""
    turn = _UPRIGHT.get(orientation)
    image, laid = _lay(file, ground) if _is_transparent(file) else (file, False)
    image = image.convert(mode)
    return image if turn is None else image.transpose(turn), laid


def _unreadable(path: Path, error: Exception) -> UnreadableImage:
    return UnreadableImage(
        f"{path}: not readable as an image ({reason(error)}); mend, convert or remove it"
    )


def _is_deep(image: Image.Image) -> bool:
    """Tells images of more than 8 bits a channel; Pillow cuts those of colour without a word."""
    # The last of a tile says how the file's bytes are laid out; of PPM also the highest value.
    layout = repr([tile[3] for tile in getattr(image, "tile", [])])
    highest = re.search(r"', (\d+)\)", layout) if image.format == "PPM" else None
    too_high = highest is not None and int(highest[1]) > 255
    return image.mode in _DEEP_MODES or bool(re.search(";16[BLN]", layout)) or too_high


def _is_transparent(image: Image.Image) -> bool:
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info


def _lay(image: Image.Image, ground: tuple[int, int, int]) -> tuple[Image.Image, bool]:
    """Lays an image on the ground; says whether any of the ground is seen."""
    above = image.convert("RGBA")
    laid = Image.new("RGBA", image.size, ground)
    laid.alpha_composite(above)
    return laid, bool(np.asarray(above)[..., 3].min() < 255)


def _orientation(image: Any) -> int:
    """The value of the tag, 1 to 8, of an image whose pixels have not been decoded yet."""
    if image.format == "TIFF":  # Pillow turns them itself.
        return 1
    try:
        if image.format == "PNG":  # Pillow would decode all of it for a tag behind its pixels.
            exif = Image.Exif()
            exif.load(image.info.get("exif") or _find_exif(image.fp))
        else:
            exif = image.getexif()
        found = int(exif.get(_ORIENTATION, 1))
    except Exception:  # A damaged tag turns nothing.
        return 1
    return found if found in _UPRIGHT else 1


def _find_exif(file: Any) -> bytes:
    """The content of a PNG's chunk of tags, wherever it is; nothing where there is none."""
    place = file.tell()
    try:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            size = int.from_bytes(head[:4])
            if head[4:] == b"eXIf":
                return bytes(file.read(size))
            file.seek(size + 4, os.SEEK_CUR)
        return b""
    finally:
        file.seek(place)
