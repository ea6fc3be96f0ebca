"""The images of a part of a set, which are read from their files each time they are asked for."""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np
from PIL import Image

from autogrow_jax.errors import UserError
from autogrow_jax.files import Choose, decode_crop
from autogrow_jax.stream.crops import centre_box, draw_box, resized_side


class Contents(Protocol):
    """The files of a part, or its records: small to send to another process."""

    def __len__(self) -> int: ...

    def read(self, row: int) -> bytes:
        """The content of a file."""

    def name(self, row: int) -> Path:
        """What messages call it."""


class Files(Sequence[Path]):
    """Paths below one folder, of a million files in some 50 MB."""

    def __init__(self, root: Path, names: Iterable[bytes]):
        found = list(names)
        self._root = root
        self._text = b"".join(found)
        self._ends = np.cumsum([0, *map(len, found)])

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, row: int) -> Path: ...
    @overload
    def __getitem__(self, row: slice) -> list[Path]: ...
    def __getitem__(self, row: int | slice) -> Path | list[Path]:
        if isinstance(row, slice):
            return [self[number] for number in range(*row.indices(len(self)))]
        if not 0 <= row < len(self):
            raise IndexError(row)
        return self._root / os.fsdecode(self._text[self._ends[row] : self._ends[row + 1]])

    def name(self, row: int) -> Path:
        """The path itself."""
        return self[row]

    def read(self, row: int) -> bytes:
        """The content of a file; OSError where it is gone."""
        return self[row].read_bytes()


def decode_centre(data: bytes, where: Path, size: int, ground: tuple[int, int, int]) -> np.ndarray:
    """Decodes an image as evaluation sees it, uint8 [size, size, 3]; UserError names `where`."""
    return decode_crop(data, where, _centre(size), size, ground)


def crop_centre(pixels: np.ndarray, size: int) -> np.ndarray:
    """The same of pixels [H, W, C], grey ones made colour."""
    image = Image.fromarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
    box = _centre(size)(image.height, image.width)
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box))


def _centre(size: int) -> Choose:
    return partial(centre_box, size=size, resized=resized_side(size))


@dataclass(frozen=True, eq=False)
class Streamed:
    """Images as `Split` holds them, uint8 [N, size, size, 3], none of which is in memory.

    Asked for like an array's they are as evaluation sees them: the shorter side resized to 8/7 of
    `size`, the centre cropped.

    Attributes:
      contents: the files, of this part and maybe more.
      rows: which of them, int64 [N].
      size: side of the images, in pixels.
      ground: the colour behind transparent ones.
      workers: processes that decode for an epoch, 0 for threads of this one.
      random: whether images to train on are boxes at random, see `crops.random_box`.
    """

    contents: Contents
    rows: np.ndarray
    size: int
    ground: tuple[int, int, int]
    workers: int
    random: bool
    dtype = np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """[N, size, size, 3]."""
        return len(self), self.size, self.size, 3

    @property
    def nbytes(self) -> int:
        """Bytes of all of them, decoded."""
        return len(self) * self.size * self.size * 3

    def select(self, mask: np.ndarray) -> "Streamed":
        """The images of a mask, bool [N], still unread."""
        return replace(self, rows=self.rows[mask])

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Reads an image [size, size, 3], or those of several rows or of a mask."""
        numbers = np.arange(len(self))[rows]
        if not isinstance(numbers, np.ndarray):
            return self.decode(int(numbers))
        with ThreadPoolExecutor() as threads:
            found = threads.map(self.decode, numbers.reshape(-1).tolist())
            return np.array([*found], np.uint8).reshape(*numbers.shape, *self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        raise TypeError(
            f"{len(self):,} streamed images ({self.nbytes / 2**30:.1f} GiB) would be read into"
            " memory at once; ask for some by their numbers, or read the set with data.stream=no"
        )

    def decode(self, row: int, key: int | None = None) -> np.ndarray:
        """Reads an image; with the key of an epoch as that epoch trains on it.

        Raises:
          UserError: names the file or record; it is gone or damaged.
        """
        place, size = int(self.rows[row]), self.size
        where = self.contents.name(place)
        choose = draw_box(key, row) if key is not None and self.random else _centre(size)
        try:
            data = self.contents.read(place)
        except OSError as error:
            raise UserError(f"{where}: cannot be read ({error}); bring it back") from error
        return decode_crop(data, where, choose, size, self.ground)
