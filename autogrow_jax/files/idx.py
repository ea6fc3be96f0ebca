"""MNIST's idx files, as MNIST and FashionMNIST are distributed."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from autogrow_jax.errors import UserError
from autogrow_jax.files.types import DAMAGED, Source, make_split, reason

_IMAGES, _LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"
_STEMS = [f"{part}-{kind}" for part in ("train", "t10k") for kind in (_IMAGES, _LABELS)]


def read_idx_folder(folder: Path, class_names: tuple[str, ...]) -> Source | None:
    """Reads the four official files, gzipped or not, from one folder; None where it has none.

    Raises:
      UserError: some of the files are missing, or one is damaged.
    """
    found = [path for stem in _STEMS if (path := _find(folder, stem))]
    if not found:
        return None
    if missing := [f"{stem}.gz" for stem in _STEMS if _find(folder, stem) is None]:
        raise UserError(f"{folder} lacks {', '.join(missing)}; all four official files are needed")
    parts = []
    for images_path, labels_path in (found[:2], found[2:]):
        images, labels = read_idx(images_path, num_axes=3), read_idx(labels_path, num_axes=1)
        if images.shape[1:] != (28, 28):
            raise UserError(
                f"{images_path}: images of {images.shape[1]}x{images.shape[2]} pixels, "
                "expected 28x28"
            )
        where = f"{images_path} and {labels_path.name}"
        parts.append(make_split(images[..., None], labels, len(class_names), where))
    return Source(parts[0], None, parts[1], class_names, str(folder))


def read_idx(path: Path, num_axes: int) -> np.ndarray:
    """Reads one idx file of unsigned bytes, gzipped or not, whatever its name; read-only.

    Raises:
      UserError: damaged gzip data, wrong magic number, or a size other than the header's.
    """
    try:
        data = path.read_bytes()
        # By content: browsers unpack a .gz and leave its name, or the reverse.
        data = data if data[:2] == b"\0\0" else gzip.decompress(data)
    except (EOFError, zlib.error, OSError) as error:
        raise UserError(f"{path}: cannot be unpacked ({reason(error)}); {DAMAGED}") from error
    header = 4 + 4 * num_axes
    magic = bytes((0, 0, 8, num_axes))  # 8 says unsigned byte
    if data[:4] != magic or len(data) < header:
        raise UserError(
            f"{path}: starts with bytes {data[:4].hex()}, expected {magic.hex()} "
            f"(an idx file of unsigned bytes with {num_axes} axes)"
        )
    shape = np.frombuffer(data, ">u4", num_axes, offset=4).tolist()
    size = math.prod(shape)
    if len(data) != header + size:
        raise UserError(
            f"{path}: its header announces {shape}, {size} bytes, but {len(data) - header} follow; "
            f"{DAMAGED}"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _find(folder: Path, stem: str) -> Path | None:
    # torchvision unpacks to the name without .gz; other mirrors write a dot before "idx".
    dotted = stem.replace("-idx", ".idx")
    names = (f"{stem}.gz", stem, f"{dotted}.gz", dotted)
    return next((folder / name for name in names if (folder / name).is_file()), None)
