"""A folder of images, one sub-folder per class."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from autogrow_jax.data.cache import array_path, new_entry, read_entry, write_info
from autogrow_jax.data.pixels import decode_image, image_header
from autogrow_jax.data.types import Source
from autogrow_jax.errors import UserError

_SUFFIXES = frozenset(
    [".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".pbm", ".tif", ".tiff"]
)
_VALIDATION_NAMES = ("val", "valid", "validation")
_PART_NAMES = {"train": "train", "test": "test"} | dict.fromkeys(_VALIDATION_NAMES, "validation")
_BAR_FROM = 2000  # images; below, decoding is over before a bar is read


class _Listing(NamedTuple):
    """Files and labels by part, in a fixed order, and the class names."""

    parts: dict[str, list[tuple[Path, int]]]
    class_names: tuple[str, ...]


def read_image_folder(root: Path, image_size: int, cache: Path) -> Source:
    """Decodes a folder of images once; later calls open the decoded arrays as memory maps.

    `root/CLASS/*.png`, or `root/train/CLASS/*`, with `val` (`valid`, `validation`) and `test`
    beside `train` where the set has them. Files deeper inside a class folder count too; hidden
    files and other suffixes are passed over. Images become RGB, unless all of them are grey.
    What was decoded is kept under `cache`, by the names, sizes and times of all files, so that a
    changed folder is decoded anew.

    Args:
      root: the folder.
      image_size: the shorter side is resized to this many pixels (bilinear, antialiased), then the
        centre is cropped to a square; 0 takes the images as they are, all of one size.
      cache: folder for the decoded arrays.

    Returns:
      Images uint8 [N, H, W, C], C 1 or 3.

    Raises:
      UserError: no such folder, a class without images, an image that cannot be read, images of
        different sizes with `image_size` 0, a class of val or test that train lacks.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    listing = _list(root)
    entry = cache / f"folder-{root.resolve().name}-{_fingerprint(root, listing, image_size)}"
    source = read_entry(entry)
    if source is None:
        _decode(root, listing, image_size, entry)
        source = read_entry(entry)
        assert source is not None
    return source._replace(where=str(root))


def _list(root: Path) -> _Listing:
    folders: dict[str, Path] = {}
    if any(path.name.lower() == "train" for path in _subfolders(root)):
        for path in _subfolders(root):
            part = _PART_NAMES.get(path.name.lower())
            if part is None:
                continue
            if part in folders:
                raise UserError(
                    f"{root} has both {folders[part].name}/ and {path.name}/ for the {part} part; "
                    "keep one"
                )
            folders[part] = path
    else:
        folders["train"] = root
    class_names = tuple(path.name for path in _subfolders(folders["train"]))
    if len(class_names) < 2:
        raise UserError(
            f"{folders['train']} has {len(class_names)} class folder(s), expected at least 2: "
            "one sub-folder per class, the images inside"
        )
    labels = {name: label for label, name in enumerate(class_names)}
    parts = {}
    for part, folder in folders.items():
        files = []
        for class_folder in _subfolders(folder):
            if class_folder.name not in labels:
                raise UserError(
                    f"{class_folder}: no class of that name in {folders['train']}, which has "
                    f"{', '.join(class_names[:10])}{', ...' if len(class_names) > 10 else ''}"
                )
            images = _images(class_folder)
            if not images:
                raise UserError(
                    f"{class_folder}: no image in it (looked for {', '.join(sorted(_SUFFIXES))}); "
                    "remove the folder or fill it"
                )
            files += [(path, labels[class_folder.name]) for path in images]
        if not files:
            raise UserError(f"{folder}: no class folder in it; remove it or fill it")
        parts[part] = files
    return _Listing(parts, class_names)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in _SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def _fingerprint(root: Path, listing: _Listing, image_size: int) -> str:
    digest = hashlib.sha256(f"{root.resolve()} {image_size}".encode())
    for part, files in listing.parts.items():
        for path, _ in files:
            status = path.stat()
            digest.update(f"\n{part} {path} {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def _decode(root: Path, listing: _Listing, image_size: int, entry: Path) -> None:
    with ThreadPoolExecutor() as threads:
        files = [path for part in listing.parts.values() for path, _ in part]
        headers = list(threads.map(image_header, files))
        height, width = _common_size(root, files, [size for size, _ in headers], image_size)
        mode = "L" if all(grey for _, grey in headers) else "RGB"
        shape = (height, width, Image.getmodebands(mode))
        bar = tqdm(total=len(files), desc=f"decode {root.name}", disable=len(files) < _BAR_FROM)
        with bar, new_entry(entry) as partial:
            for part, labelled in listing.parts.items():
                # Decoded straight into the file: a large set never has to fit into memory.
                images = np.lib.format.open_memmap(
                    array_path(partial, part, "images"),
                    "w+",
                    np.uint8,
                    (len(labelled), *shape),
                )

                def write(row: int, files=labelled, images=images) -> None:
                    images[row] = decode_image(files[row][0], mode, image_size)

                for _ in threads.map(write, range(len(labelled))):
                    bar.update()
                images.flush()
                labels = np.asarray([label for _, label in labelled], np.int32)
                np.save(array_path(partial, part, "labels"), labels)
            write_info(partial, listing.class_names, source=str(root))


def _common_size(
    root: Path, files: list[Path], sizes: list[tuple[int, int]], image_size: int
) -> tuple[int, int]:
    """Height and width of the decoded images."""
    if image_size:
        return image_size, image_size
    for path, size in zip(files, sizes, strict=True):
        if size != sizes[0]:
            raise UserError(
                f"{root}: images differ in size ({files[0]} is {sizes[0][0]}x{sizes[0][1]}, "
                f"{path} is {size[0]}x{size[1]}, height x width); set the image size, and all "
                "are resized to it"
            )
    return sizes[0]
