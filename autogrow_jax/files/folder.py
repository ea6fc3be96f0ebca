"""A folder of images, one sub-folder per class."""

import hashlib
import os
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from autogrow_jax.errors import UserError, printable
from autogrow_jax.files.cache import (
    array_path,
    cache_root,
    entry_name,
    open_entry,
    open_images,
    write_info,
)
from autogrow_jax.files.image_files import (
    Decoded,
    Header,
    UnreadableImage,
    decode_image,
    image_header,
    is_image,
    parse_ground,
)
from autogrow_jax.files.listing import Listing, list_folder
from autogrow_jax.files.types import Source

_NAMED = 20  # broken images, in one error
_BAR_FROM = 2000  # images; below, decoding is over before a bar is read
_CHUNK = 512  # images in memory at a time


def read_image_folder(
    root: Path,
    image_size: int,
    *,
    layout: str = "auto",
    background: str = "white",
    cache_directory: str = "",
    directory: str = "",
    least_classes: int = 2,
) -> Source:
    """Decodes a folder of images once; later calls open the decoded arrays as memory maps.

    `list_folder` says how parts and classes are found. Files count as images by their content;
    others are passed over, with a note. Images are turned upright as their tags say, transparent
    ones laid on `background`, animated ones give their first frame. They become RGB, unless all of
    them are grey. What was decoded is kept by the names, sizes and times of all files, so that a
    changed folder is decoded anew; see `cache_root` for where.

    With an `image_size` above 0 the shorter side is resized to it, then the centre cropped to a
    square; with 0 the images are taken as they are, all of one size.

    Raises:
      UserError: what `list_folder` raises; a class without images, an image that cannot be read,
        images of different sizes with `image_size` 0, a colour that is none, a cache that cannot
        be written or lies among the images.
    """
    ground = parse_ground(background)
    listing = list_folder(root, layout, is_image, least_classes)
    cache = cache_root(cache_directory, directory, listing.folders)
    settings = f"{image_size} {background} {layout}"
    known_by = _fingerprint(root, listing, settings)
    entry = cache / entry_name("folder", root.resolve().name, known_by)

    def fill(folder: Path) -> None:
        with warnings.catch_warnings(), ThreadPoolExecutor() as threads:
            warnings.filterwarnings("ignore", module="PIL")  # What cannot be read is an error.
            try:
                headers = _read_headers(listing, image_size, threads)
                laid = _decode(listing, headers, image_size, ground, folder, threads)
            except UnreadableImage as error:
                raise _name_all(error, listing, ground, threads) from None
        notes = _describe(listing, headers)
        if laid:
            notes.append(f"transparent in part, laid on {background}: {_some(laid)}")
        lines = list(map(printable, notes))
        write_info(folder, listing.class_names, source=printable(str(root)), notes=lines)

    files = {
        part: [path for folder in folders for path in folder.files]
        for part, folders in listing.parts.items()
    }
    return open_entry(entry, fill, printable(str(root)), files)


def _fingerprint(root: Path, listing: Listing, settings: str) -> str:
    """Of all that decides what is decoded."""
    digest = hashlib.sha256(os.fsencode(f"3 {root.resolve()} {settings} {listing.notes}"))
    for part, folders in listing.parts.items():
        for folder, label, files in folders:
            digest.update(os.fsencode(f"\n{part} {folder} {label}"))
            _add_files(digest, files)
    _add_files(digest, listing.outside)
    return digest.hexdigest()[:16]


def _add_files(digest: Any, files: list[Path]) -> None:
    for path in files:
        status = path.stat()
        digest.update(os.fsencode(f"\n{path} {status.st_size} {status.st_mtime_ns}"))


def _read_headers(
    listing: Listing, image_size: int, threads: ThreadPoolExecutor
) -> dict[Path, Header]:
    """Looks into the files of all classes; those that are no images are left out."""
    files = listing.class_files()
    found = zip(files, threads.map(image_header, files), strict=True)
    headers = {path: header for path, header in found if header}
    for part in listing.parts.values():
        for folder, _, inside in part:
            if not any(path in headers for path in inside):
                but = f", but {_count_kinds(inside)}" if inside else ""
                raise UserError(
                    f"{folder}: no image in it{but}; remove the folder, fill it, or convert what it"
                    " holds to PNG or JPEG"
                )
    first = next(iter(headers))
    for path, header in headers.items():
        if not image_size and header.size != headers[first].size:
            raise _differ(first, headers[first].size, path, header.size)
    return headers


def _name_all(
    first: UserError, listing: Listing, ground: tuple[int, int, int], threads: ThreadPoolExecutor
) -> UserError:
    """All images that cannot be read, as one error, so that nobody starts again for each."""

    def check(path: Path) -> str:
        try:
            if image_header(path):
                decode_image(path, "RGB", 0, ground)
        except UserError as error:
            return str(error)
        return ""

    broken = [words for words in threads.map(check, listing.class_files()) if words]
    if len(broken) < 2:
        return first
    shown = [words.rpartition("; ")[0] for words in broken[:_NAMED]]
    more = f"\n  and {len(broken) - _NAMED:,} more" if len(broken) > _NAMED else ""
    lines = "".join(f"\n  {words}" for words in shown)
    return UserError(
        f"{len(broken):,} images cannot be read; mend, convert or remove them:{lines}{more}"
    )


def _differ(first: Path, expected: tuple[int, ...], path: Path, size: tuple[int, ...]) -> UserError:
    return UserError(
        f"images differ in size ({first} is {expected[0]}x{expected[1]}, {path} is "
        f"{size[0]}x{size[1]}, height x width); set the image size, and all are resized to it"
    )


def _describe(listing: Listing, headers: dict[Path, Header]) -> list[str]:
    """Says what was passed over, and what happens to images that are not like the others."""
    stray = set(filter(is_image, listing.outside))
    others = [path for path in listing.outside if path not in stray]
    others += [path for path in listing.class_files() if path not in headers]
    animated = [path for path, header in headers.items() if header.animated]
    grey = [path for path, header in headers.items() if header.grey]
    notes = list(listing.notes)
    if others:
        notes.append(f"passed over as no images: {_count_kinds(others)}")
    if stray:
        notes.append(f"passed over, in no class folder: {_some(sorted(stray))}")
    if animated:
        notes.append(f"of several frames, of which the first was taken: {_some(animated)}")
    if 0 < len(grey) < len(headers):
        notes.append(f"in grey, made RGB as the other {len(headers) - len(grey)}: {_some(grey)}")
    return notes


def _count_kinds(paths: list[Path]) -> str:
    """Counts files by their suffixes."""
    kinds = Counter(path.suffix.lower() or "without suffix" for path in paths)
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())


def _some(paths: list[Path]) -> str:
    """Counts images and names the first."""
    return f"{len(paths)} image{'s' if len(paths) > 1 else ''} such as {paths[0]}"


def _decode(
    listing: Listing,
    headers: dict[Path, Header],
    image_size: int,
    ground: tuple[int, int, int],
    folder: Path,
    threads: ThreadPoolExecutor,
) -> list[Path]:
    """Fills an entry of the cache; returns the images that were laid on the ground."""
    # On a coloured ground what is transparent in part is grey no longer.
    coloured = len(set(ground)) > 1 and any(header.transparent for header in headers.values())
    grey = all(header.grey for header in headers.values()) and not coloured
    first, header = next(iter(headers.items()))
    size = (image_size, image_size) if image_size else header.size

    def decode(path: Path) -> Decoded:
        return decode_image(path, "L" if grey else "RGB", image_size, ground)

    laid: list[Path] = []
    hidden = True if len(headers) < _BAR_FROM else None  # None: but on a terminal.
    with tqdm(total=len(headers), desc="decode", disable=hidden) as bar:
        for part, folders in listing.parts.items():
            rows = [(path, label) for _, label, files in folders for path in files]
            kept = np.asarray([path in headers for path, _ in rows])
            paths, labels = zip(*compress(rows, kept), strict=True)
            ids: list[np.ndarray] = []
            with open_images(folder, part, (len(paths), *size, 1 if grey else 3)) as write:
                for start in range(0, len(paths), _CHUNK):
                    chunk = paths[start : start + _CHUNK]
                    for path, image in zip(chunk, threads.map(decode, chunk), strict=True):
                        if image.pixels.shape[:2] != size:
                            raise _differ(first, size, path, image.pixels.shape)
                        write(image.pixels.tobytes())
                        ids.append(image.id)
                        laid += [path] * image.laid
                        bar.update()
            arrays = {"labels": np.asarray(labels, np.int32), "ids": np.concatenate(ids)}
            for kind, array in (arrays | {"kept": kept}).items():
                np.save(array_path(folder, part, kind), array)
    return laid
