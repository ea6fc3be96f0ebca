"""A folder of images, one sub-folder per class."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from autogrow_jax.data.cache import array_path, open_entry, write_info
from autogrow_jax.data.pixels import decode_image, image_header
from autogrow_jax.data.types import Source, image_ids
from autogrow_jax.errors import UserError

_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".pbm"}
_SUFFIXES |= {".tif", ".tiff"}
_VALIDATION_NAMES = ("val", "valid", "validation")
_PART_NAMES = {"train": "train", "test": "test"} | dict.fromkeys(_VALIDATION_NAMES, "validation")
_BAR_FROM = 2000  # images; below, decoding is over before a bar is read

_Parts = dict[str, list[tuple[Path, int]]]  # Files and labels by part, in a fixed order.


def read_image_folder(root: Path, image_size: int, cache: Path) -> Source:
    """Decodes a folder of images once; later calls open the decoded arrays as memory maps.

    `root/CLASS/*.png`, or `root/train/CLASS/*`, with `val` (`valid`, `validation`) and `test`
    beside `train` where the set has them. Files deeper inside a class folder count too; hidden
    files and other suffixes are passed over. Images become RGB, unless all of them are grey.
    What was decoded is kept under `cache`, by the names, sizes and times of all files, so that a
    changed folder is decoded anew.

    With an `image_size` above 0 the shorter side is resized to it, then the centre cropped to a
    square; with 0 the images are taken as they are, all of one size.

    Raises:
      UserError: no such folder, a class without images, an image that cannot be read, images of
        different sizes with `image_size` 0, a class of val or test that train lacks.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    parts, class_names = _list(root)
    entry = cache / f"folder-{root.resolve().name}-{_fingerprint(root, parts, image_size)}"

    def fill(folder: Path) -> None:
        _decode(root, parts, image_size, folder)
        write_info(folder, class_names, source=str(root))

    source = open_entry(entry, fill, str(root))
    files = {part: [path for path, _ in labelled] for part, labelled in parts.items()}
    return source._replace(files=files)


def _list(root: Path) -> tuple[_Parts, tuple[str, ...]]:
    """The files of each part, and the class names."""
    folders: dict[str, Path] = {}
    if any(path.name.lower() == "train" for path in _subfolders(root)):
        for path in _subfolders(root):
            part = _PART_NAMES.get(path.name.lower(), "")
            if part in folders:
                raise UserError(
                    f"{root} has both {folders[part].name}/ and {path.name}/ for the {part} part; "
                    "keep one"
                )
            if part:
                folders[part] = path
    else:
        folders["train"] = root
    class_names = tuple(path.name for path in _subfolders(folders["train"]))
    if len(class_names) < 2:
        raise UserError(
            f"{folders['train']} has {len(class_names)} class folder(s), expected at least 2: "
            "one sub-folder per class, the images inside"
        )
    parts = {}
    for part, folder in folders.items():
        files = []
        for class_folder in _subfolders(folder):
            if class_folder.name not in class_names:
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
            label = class_names.index(class_folder.name)
            files += [(path, label) for path in images]
        if not files:
            raise UserError(f"{folder}: no class folder in it; remove it or fill it")
        parts[part] = files
    return parts, class_names


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in _SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def _fingerprint(root: Path, parts: _Parts, image_size: int) -> str:
    digest = hashlib.sha256(f"{root.resolve()} {image_size} ids".encode())
    for part, files in parts.items():
        for path, _ in files:
            status = path.stat()
            digest.update(f"\n{part} {path} {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def _decode(root: Path, parts: _Parts, image_size: int, folder: Path) -> None:
    with ThreadPoolExecutor() as threads:
        files = [path for part in parts.values() for path, _ in part]
        headers = list(threads.map(image_header, files))
        height, width = headers[0][0]
        for path, (size, _) in zip(files, headers, strict=True):
            if not image_size and size != (height, width):
                raise UserError(
                    f"{root}: images differ in size ({files[0]} is {height}x{width}, {path} is "
                    f"{size[0]}x{size[1]}, height x width); set the image size, and all are "
                    "resized to it"
                )
        mode = "L" if all(grey for _, grey in headers) else "RGB"
        shape = (image_size or height, image_size or width, Image.getmodebands(mode))
        few = len(files) < _BAR_FROM
        with tqdm(total=len(files), desc=f"decode {root.name}", disable=few) as bar:
            for part, labelled in parts.items():
                # Decoded straight into the file: a large set never has to fit into memory.
                path, whole = array_path(folder, part, "images"), (len(labelled), *shape)
                images = np.lib.format.open_memmap(path, "w+", np.uint8, whole)

                def write(row: int, files=labelled, images=images) -> np.ndarray:
                    images[row] = decode_image(files[row][0], mode, image_size)
                    return image_ids([files[row][0].read_bytes()])

                ids = []
                for found in threads.map(write, range(len(labelled))):
                    ids.append(found)
                    bar.update()
                images.flush()
                np.save(array_path(folder, part, "ids"), np.concatenate(ids))
                labels = np.asarray([label for _, label in labelled], np.int32)
                np.save(array_path(folder, part, "labels"), labels)
