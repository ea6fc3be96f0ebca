"""Decoded data sets on disk: .npy arrays and a JSON file in a folder that appears whole or not."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import compress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from autogrow_jax.errors import UserError
from autogrow_jax.files.types import Source, Split, make_split, reason
from autogrow_jax.process import user_path

_INFO = "info.json"
PARTS = ("train", "validation", "test")


def cache_root(
    cache_directory: str, directory: str, images: Collection[Path] = frozenset()
) -> Path:
    """Where decoded sets go: `cache_directory`, `directory` or ~/.cache/autogrow_jax, in turn.

    Never into one of the folders `images`, links resolved: there they would be taken for a class.

    Raises:
      UserError: `cache_directory` lies there.
    """

    def among_images(folder: str) -> bool:
        real = user_path(folder).resolve()
        return any(path in images for path in (real, *real.parents))

    if cache_directory and among_images(cache_directory):
        raise UserError(
            f"the cache directory {cache_directory} lies among the images that are to be read; set "
            "data.cache_dir (cache_directory) to a folder outside, or to nothing"
        )
    if directory and among_images(directory):
        directory = ""
    return user_path(cache_directory or directory or "~/.cache/autogrow_jax")


def entry_name(kind: str, name: str, *more: object) -> str:
    """Makes an entry's name, of characters that every file system takes and not too many."""
    slug = "".join(c if c.isascii() and (c.isalnum() or c in "_.-") else "-" for c in name)
    return "-".join(map(str, (kind, slug[:80], *more)))


def array_path(entry: Path, part: str, kind: str) -> Path:
    """Where an entry keeps the array `kind` of a part.

    That is "images", "labels" or "ids", or "kept", bool [files], where some files were passed over.
    """
    return entry / f"{part}_{kind}.npy"


@contextmanager
def open_images(entry: Path, part: str, shape: tuple[int, ...]) -> Iterator[Callable[[bytes], Any]]:
    """Yields what writes the images of a part one by one, so that they need not fit into memory.

    A memory map would do as well until the disk is full, and then end the process.
    """
    with array_path(entry, part, "images").open("wb") as stream:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        yield stream.write


@contextmanager
def new_entry(entry: Path) -> Iterator[Path]:
    """Yields a folder to fill; it becomes `entry` when the block ends well, and is gone if not.

    A killed process can leave a `.partial-*` folder behind, never half an entry. When another
    process made the same entry meanwhile, that one stays.
    """
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".partial-{entry.name}-", dir=entry.parent))
        try:
            yield partial
            try:
                os.rename(partial, entry)
            except OSError:
                if not (entry / _INFO).exists():
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"cannot write the cache of decoded images under {entry.parent}: {error}; make room "
            "there, or set data.cache_dir (cache_directory) to a folder that can be written"
        ) from error


def write_split(folder: Path, part: str, split: Split) -> None:
    """Writes a part that is in memory. Large ones are better filled in place as memory maps."""
    for kind, array in split._asdict().items():
        np.save(array_path(folder, part, kind), array)


def write_info(folder: Path, class_names: tuple[str, ...], **facts: Any) -> None:
    """Writes the entry's JSON file, last of all: class names and where the set came from.

    Where one of the facts is `notes`, a list of lines, they come back as those of the source.
    """
    (folder / _INFO).write_text(json.dumps({"class_names": class_names, **facts}, indent=1))


def open_entry(
    entry: Path,
    fill: Callable[[Path], None],
    where: str,
    files: Mapping[str, Sequence[Path]] = MappingProxyType({}),
) -> Source:
    """Opens an entry as memory maps; where there is none, `fill` first makes its folder's files.

    Of a part's `files`, those that the entry kept belong to its images.

    Raises:
      UserError: the entry is damaged, or cannot be written.
    """
    if not os.path.exists(entry / _INFO):  # False also where that cannot be told.
        with new_entry(entry) as partial:
            fill(partial)
    try:
        info = json.loads((entry / _INFO).read_text())
        class_names = tuple(info["class_names"])
        parts = {}
        for part in PARTS:
            path = array_path(entry, part, "images")
            if path.exists():
                images, labels = np.load(path, mmap_mode="r"), array_path(entry, part, "labels")
                ids = array_path(entry, part, "ids")  # Entries of before they were kept lack them.
                given = np.load(ids) if ids.exists() else None
                where_part = len(class_names), str(path)
                parts[part] = make_split(images, np.load(labels), *where_part, given)
        if not parts:
            raise ValueError("there is no image in it")
        train, validation, test = (parts.get(part) for part in PARTS)
        notes = tuple(info.get("notes", ()))
        kept = {
            part: list(compress(paths, np.load(array_path(entry, part, "kept"))))
            for part, paths in files.items()
        }
        return Source(train, validation, test, class_names, where, notes, kept)
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"the cached set {entry} is damaged ({reason(error)}); delete that folder, and the "
            "next run makes it anew"
        ) from error
