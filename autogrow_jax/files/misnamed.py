"""What was probably meant by a name that is no data set's."""

import os
import re
from pathlib import Path

from autogrow_jax.errors import UserError, nearest
from autogrow_jax.files.image_files import is_image
from autogrow_jax.process import user_path

_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")
# What people write for "folder", "npz" and "tfds", before a colon or another sign.
_KINDS = {
    **dict.fromkeys(("folder", "folders", "dir", "directory", "path", "image", "images"), "folder"),
    **dict.fromkeys(("imagefolder", "image_folder", "img", "file", "root"), "folder"),
    "npz": "npz",
    "tfds": "tfds",
}


def what_was_meant(name: str, directory: str, known: list[str]) -> str:
    """The end of the message that refuses `name`: what to write instead, or the known names."""
    kind, rest = _split(name)
    if rest:
        there = _find(rest, directory)
        if kind == "folder" and there and not there.is_dir():
            return what_is(there)
        return f"; write {kind}:{rest}"
    simple = {re.sub(r"\W|_", "", other.lower()): other for other in known}
    if same := simple.get(re.sub(r"\W|_", "", name.lower())):
        return f"; did you mean {same!r}?"
    if there := _find(name, directory):
        return what_is(there)
    if name.strip() and (os.sep in name or name.endswith(("/", "\\"))):
        return f"; there is no such folder or file; images are read from folder:{name}"
    return nearest(name, known)


def is_misspelt(name: str, directory: str) -> bool:
    """Tells "NPZ:PATH" and the like, which name a kind otherwise than we do, from a path."""
    return bool(_split(name)[1]) and _find(name, directory) is None


def what_is(path: Path) -> str:
    """The end of a message about a path that is there but not what is needed: how to use it."""
    suffix = path.suffix.lower()
    if path.is_dir():
        return f"; it is a folder: for the images in it write folder:{path}"
    if suffix == ".npz":
        return f"; it is a file of arrays: write npz:{path}"
    if suffix in _ARCHIVES:
        return "; it is an archive: unpack it, then write folder: and the folder that comes of it"
    if is_image(path):
        return (
            "; it is a single image: a set is a folder with a sub-folder of images for each class,"
            f" written folder:{path.parent}"
        )
    return (
        "; it is a file of another kind: a set is a folder of images, folder:PATH, or a file"
        " written by numpy.savez(PATH, x_train=..., y_train=...), npz:PATH"
    )


def _split(name: str) -> tuple[str, str]:
    """A known kind and what follows it, ("", "") where none starts the name."""
    match = re.fullmatch(r"\s*([A-Za-z_]+)\s*(?::|=|\s)\s*(?://)?(.+?)\s*", name)
    if not match or match[1].lower() not in _KINDS:
        return "", ""
    return _KINDS[match[1].lower()], match[2]


def _find(text: str, directory: str) -> Path | None:
    for path in (text.strip(), os.path.join(directory, text.strip())):
        try:
            if (there := user_path(path)).exists():
                return there
        except UserError:  # What no system can have is not there.
            pass
    return None
