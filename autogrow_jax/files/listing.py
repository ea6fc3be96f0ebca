"""Which files of a folder belong to which part and class, told from names alone."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from autogrow_jax.errors import UserError
from autogrow_jax.files.misnamed import what_is
from autogrow_jax.files.tree import PARTS, Tree, scan
from autogrow_jax.files.types import plain_name

LAYOUTS = ("auto", "classes", "parts")


class ClassFolder(NamedTuple):
    """The files of one class in one part."""

    folder: Path
    label: int
    files: list[Path]  # Everything in it at any depth, whether it is an image or not; sorted.


class Listing(NamedTuple):
    """What a folder holds."""

    parts: dict[str, list[ClassFolder]]  # "train", "validation", "test", where there are.
    class_names: tuple[str, ...]
    outside: list[Path]  # Files that are in no class.
    folders: frozenset[Path]  # All of them, links resolved.
    notes: list[str]  # What is worth saying about how the folder was understood.

    def class_files(self) -> list[Path]:
        """Returns the files of all classes in all parts, in order."""
        return [path for part in self.parts.values() for folder in part for path in folder.files]


def list_folder(
    root: Path, layout: str, is_image: Callable[[Path], bool], least_classes: int = 2
) -> Listing:
    """Finds parts and classes: `root/CLASS`, `root/PART/CLASS` or `root/CLASS/PART`.

    Parts are train (training), val (valid, validation, dev) and test (testing, eval, evaluation) in
    any case, also as in "training_set", with or without all of them; classes in `root` beside val
    or test, with the same names, are train. Where `root` holds a single folder that holds all this,
    that one is read. `layout` says whether what is called like a part is one: "classes", "parts",
    or "auto", which asks where both can be meant. `is_image` opens a file and tells. A train part
    has `least_classes`.

    Raises:
      UserError: no such folder, a link that leads nowhere, no classes, two folders for one part,
        two ways to understand the folder.
    """
    if layout not in LAYOUTS:
        raise UserError(f"layout is {layout!r}, expected one of {', '.join(LAYOUTS)}")
    if not root.is_dir():
        raise UserError(f"{root}: no such folder{what_is(root) if root.exists() else ''}")
    notes: list[str] = []
    seen: set[Path] = set()
    tree = scan(root, (), seen, notes)
    while len(tree.folders) == 1 and tree.folders[0].folders and not any(map(is_image, tree.files)):
        (only,) = tree.folders
        if only.part and not only.only_parts():
            break
        notes.append(f"{only.path} was read, the one folder in {tree.path}")
        tree = only
    by_part = _find_parts(tree, layout, is_image)
    class_names = {name for classes in by_part.values() for name in classes}
    known = sorted(by_part.get("train", class_names))
    least = least_classes if "train" in by_part else 1
    if len(known) < least:
        raise UserError(
            f"{tree.path} has {len(known)} class folder(s), expected at least {least}: one"
            " sub-folder a class, the images inside"
        )
    if more := sorted(class_names - set(known)):
        trees = (classes[more[0]] for classes in by_part.values() if more[0] in classes)
        raise UserError(
            f"{next(trees).path}: no class of that name in train, which has "
            f"{', '.join(known[:10])}{', ...' if len(known) > 10 else ''}"
        )
    parts = {
        part: [
            ClassFolder(classes[name].path, label, classes[name].all_files())
            for label, name in enumerate(known)
            if name in classes
        ]
        for part, classes in by_part.items()
    }
    if layout == "auto" and by_part.keys() == {"train"}:
        notes += _note_shared(by_part["train"])
    listing = Listing(parts, tuple(known), [], frozenset(seen), notes)
    used = set(listing.class_files())
    return listing._replace(outside=[path for path in tree.all_files() if path not in used])


def _note_shared(classes: dict[str, Tree]) -> list[str]:
    """A line where all classes hold folders of the same names, which may be the classes."""
    inside = [
        {folder.path.name for folder in tree.folders if folder.all_files()}
        for tree in classes.values()
    ]
    shared = sorted(set.intersection(*inside)) if inside else []
    if len(shared) < 2:
        return []
    names = ", ".join(shared[:5]) + ", ..." * (len(shared) > 5)
    return [
        f"each class holds folders {names}; if these are the classes, give one above them alone"
    ]


def _find_parts(
    tree: Tree, layout: str, is_image: Callable[[Path], bool]
) -> dict[str, dict[str, Tree]]:
    """The folders by part and class name."""
    if layout == "classes":
        return {"train": _by_name(tree.folders)}
    surely = {folder.part for folder in tree.folders if folder.part}
    alike: dict[str, list[Tree]] = {}
    for folder in tree.folders:
        before, part = folder.called
        if part:
            alike.setdefault(before, []).append(folder)
            folder.loosely = layout == "parts" and part not in surely and not (surely and before)
    for group in alike.values() if layout == "auto" else ():
        are_several = len({folder.called[1] for folder in group}) > 1
        if are_several and not all(folder.part for folder in group):
            raise _two_readings(tree, [folder.path.name for folder in group])
    named = [folder for folder in tree.folders if folder.part]
    if not named:
        return _parts_of_classes(tree, layout, is_image)
    by_part: dict[str, dict[str, Tree]] = {}
    for folder in named:
        if folder.part in by_part:
            first = next(other for other in named if other.part == folder.part)
            raise UserError(
                f"{tree.path} has both {first.path.name}/ and {folder.path.name}/ for the "
                f"{folder.part} part; keep one"
            )
        by_part[folder.part] = _by_name(_descend(folder).folders)
    others = [folder for folder in tree.folders if not folder.part]
    beside = _by_name(folder for folder in others if any(map(is_image, folder.all_files())))
    if layout == "parts":
        parts = by_part if "train" in by_part or not beside else {"train": beside, **by_part}
        return {part: classes for part, classes in parts.items() if classes}
    if not beside and any(by_part.values()):
        if unlabelled := [folder for folder in named if not folder.folders]:
            raise UserError(
                f"{unlabelled[0].path}: no class folder in it; remove it or fill it, or leave it "
                "out with data.layout=parts"
            )
        return by_part
    if "train" not in by_part and all(
        classes and classes.keys() <= beside.keys() for classes in by_part.values()
    ):
        return {"train": beside, **by_part}
    if by_part == {"train": {}} and beside:  # No training part is without classes: trains.
        return {"train": _by_name(tree.folders)}
    raise _two_readings(tree, [folder.path.name for folder in named])


def _descend(folder: Tree) -> Tree:
    """What lies in a folder of a folder of the same name, "train/train"."""
    names = [inside.path.name for inside in folder.folders]
    return folder.folders[0] if names == [folder.path.name] and not folder.files else folder


def _parts_of_classes(
    tree: Tree, layout: str, is_image: Callable[[Path], bool]
) -> dict[str, dict[str, Tree]]:
    """The folders by part and class name, of classes that may have parts inside."""
    inside = [folder for tree in tree.folders for folder in tree.folders if folder.part]
    if not inside and layout == "auto":
        return {"train": _by_name(tree.folders)}
    if not (inside and all(folder.only_parts() for folder in tree.folders)):
        if layout == "auto":
            raise _two_readings(tree, [str(inside[0].path.relative_to(tree.path))])
        holding = [folder for folder in tree.folders if any(part.part for part in folder.folders)]
        if len(holding) == 1:
            return _find_parts(holding[0], layout, is_image)
        raise UserError(
            f"{tree.path}: layout is 'parts', but none of {', '.join(_by_name(tree.folders))} is "
            f"called like a part ({', '.join(PARTS)})"
        )
    by_part: dict[str, dict[str, Tree]] = {}
    for folder in inside:
        classes = by_part.setdefault(folder.part, {})
        name = _class_name(folder.path.parent)
        if name in classes:
            raise UserError(
                f"{folder.path.parent} has both {classes[name].path.name}/ and "
                f"{folder.path.name}/ for the {folder.part} part; keep one"
            )
        classes[name] = folder
    return by_part


def _by_name(folders: Iterable[Tree]) -> dict[str, Tree]:
    found: dict[str, Tree] = {}
    for folder in folders:
        first = found.setdefault(_class_name(folder.path), folder)
        if first is not folder:
            raise UserError(
                f"{first.path} and {folder.path.name!a} are one name in two spellings; put the"
                " images into one folder"
            )
    return found


def _class_name(folder: Path) -> str:
    # A name is UTF-8 whatever the language that this process was started in.
    return plain_name(os.fsencode(folder.name).decode("utf-8", "surrogateescape"))


def _two_readings(tree: Tree, named: list[str]) -> UserError:
    them = ", ".join(f"{name}/" for name in named)
    others = [f"{name}/" for name in _by_name(tree.folders) if name not in named]
    more = f"{', '.join(others[:5])}{', ...' if len(others) > 5 else ''}"
    return UserError(
        f"{tree.path} can be read in two ways: {them} as part(s) of the set, with class folders "
        f"inside{f', beside {more}' if more else ''}, or as class(es) like any other; say which "
        "with data.layout=parts or data.layout=classes"
    )
