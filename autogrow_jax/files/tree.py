"""A folder as a tree of folders and files, less what is hidden, the system's or of a run."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from autogrow_jax.errors import UserError

PARTS = dict.fromkeys(("train", "training"), "train")
PARTS |= dict.fromkeys(("val", "valid", "validation", "dev"), "validation")
PARTS |= dict.fromkeys(("test", "testing", "eval", "evaluation"), "test")
_ENDING = re.compile(r"[ _-]?(set|images|imgs|data|split)$")  # "training_set"
# "asl_train", "train2017", "test 1"; not "bustest".
_CALLED = re.compile(rf"(?:(.*)[ _.-])?({'|'.join(PARTS)})[ _.()-]*\d*[ _.()-]*$")

# What systems and programs leave beside images. What starts with a dot is as hidden.
_SYSTEM = {"@eadir", "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}
_SYSTEM |= {"$recycle.bin", "system volume information", "lost+found", "__pycache__"}
_SYSTEM |= {"#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@tmp"}
_SYSTEM |= {"network trash folder", "temporary items"}


@dataclass
class Tree:
    """A folder, less what is hidden; links are followed."""

    path: Path
    folders: list["Tree"] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    loosely: bool = False  # Whether names such as "asl_train" and "train2017" are parts' too.

    @property
    def part(self) -> str:
        """The part that the folder's name stands for, "" for none."""
        return PARTS.get(self._plain, "") or (self.loosely and self.called[1]) or ""

    @property
    def called(self) -> tuple[str, str]:
        """What the name has before a part's, and that part: ("asl", "train"); "" where none is."""
        found = _CALLED.match(self._plain)
        return ((found[1] or ""), PARTS[found[2]]) if found else ("", "")

    @property
    def _plain(self) -> str:
        return _ENDING.sub("", self.path.name.strip().lower())

    def all_files(self) -> list[Path]:
        """Returns the files at any depth, sorted."""
        return sorted([*self.files, *(path for tree in self.folders for path in tree.all_files())])

    def only_parts(self) -> bool:
        """Tells whether all sub-folders are called like parts, and no file lies beside them."""
        return bool(self.folders) and not self.files and all(tree.part for tree in self.folders)


def scan(path: Path, above: tuple[Path, ...], seen: set[Path], notes: list[str]) -> Tree:
    """Reads a folder, which lies in those `above`; UserError of a link that leads nowhere.

    What it reads is added to `seen`, links resolved, and what it passes over to `notes`.
    """
    real = path.resolve()
    seen.add(real)
    tree = Tree(path)
    try:
        for entry in _visible(path):
            inside = path / entry.name
            if not inside.is_dir():
                if entry.is_symlink() and not inside.exists():
                    raise UserError(
                        f"{inside} is a link to {os.readlink(inside)}, where there is nothing or"
                        " only links in a circle; mend or remove it"
                    )
                tree.files.append(inside)
            elif entry.is_symlink() and _leads_up(inside.resolve(), (real, *above)):
                notes.append(f"{inside} was passed over: a link to a folder that it lies in")
            elif _is_ours(inside):
                notes.append(f"{inside} was passed over: no class, but what this package wrote")
            else:
                found = scan(inside, (real, *above), seen, notes)
                if found.files or found.folders or not _holds_ours(inside):
                    tree.folders.append(found)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    return tree


def walk_files(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Yields the files below a folder at any depth, sorted, less what is hidden or the system's.

    Links are followed, and those that lead nowhere are yielded too.

    Raises:
      UserError: a folder that cannot be read.
    """
    above = (folder.resolve(), *above)
    try:
        entries = _visible(folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error})") from error
    for entry in entries:
        inside = folder / entry.name
        if not inside.is_dir():  # Of a link to itself `entry` raises an error.
            yield inside
        elif not ((entry.is_symlink() and _leads_up(inside.resolve(), above)) or _is_ours(inside)):
            yield from walk_files(inside, above)


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    """What lies in a folder, sorted, less what is hidden or the system's."""
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    return [e for e in entries if not e.name.startswith(".") and e.name.lower() not in _SYSTEM]


def _leads_up(target: Path, above: tuple[Path, ...]) -> bool:
    return any(folder.is_relative_to(target) for folder in above)


def _is_ours(folder: Path) -> bool:
    """Tells a run, or a decoded set as earlier versions wrote it among the images, from a class."""
    is_run = (folder / "config.json").exists() and (
        (folder / "checkpoints").is_dir() or (folder / "metrics.jsonl").exists()
    )
    return is_run or ((folder / "info.json").exists() and any(folder.glob("*_images.npy")))


def _holds_ours(folder: Path) -> bool:
    inside = [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]
    return any(_is_ours(path) or _holds_ours(path) for path in inside)
