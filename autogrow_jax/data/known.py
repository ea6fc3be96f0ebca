"""What a run keeps of its data, to know them again and to prepare others as its own were.

`dataset.json` beside the run's config holds a `Known`, written when the run begins.
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autogrow_jax.errors import printable
from autogrow_jax.files import Source, Split

# From this part of the images on, a class is pointed out.
_NEARLY_ALL = 0.9


@dataclass(frozen=True)
class KnownPart:
    """One part of a run's data.

    Attributes:
      images: how many there are.
      class_counts: how many of each class.
      fingerprint: of the ids and labels of its images in their order, in hexadecimal.
    """

    images: int
    class_counts: tuple[int, ...]
    fingerprint: str


@dataclass(frozen=True)
class Known:
    """What a run keeps of its data.

    Attributes:
      name: what the data were asked for by.
      where: the file or folder they were read from.
      class_names: in the order of the net's outputs.
      image_shape: height, width and channels of what the net was trained on.
      source_size: height and width before they were padded; `image_shape`'s where they were not.
      mean: per channel, for pixels in [0, 1].
      std: likewise.
      parts: "train", "validation" and "test".
      measured: mean and std of the data themselves, where the net sees them by others.
      resized: pixels that the shorter side of a streamed image has before the centre is cropped to
        `image_shape`; 0 where the images are not streamed.
    """

    name: str
    where: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    source_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    parts: Mapping[str, KnownPart]
    resized: int = 0
    measured: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The content of dataset.json."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(content: Mapping[str, Any]) -> "Known":
        """The reverse of `to_dict`.

        Raises:
          KeyError, TypeError, ValueError: the content is no such thing.
        """
        parts = {
            name: KnownPart(int(part["images"]), tuple(part["class_counts"]), part["fingerprint"])
            for name, part in content["parts"].items()
        }
        height, width, channels = content["image_shape"]
        measured = content.get("measured")
        return Known(
            content["name"],
            content["where"],
            tuple(content["class_names"]),
            (height, width, channels),
            tuple(content["source_size"]),
            tuple(content["mean"]),
            tuple(content["std"]),
            parts,
            int(content.get("resized", 0)),
            (tuple(measured[0]), tuple(measured[1])) if measured else None,
        )


def know_part(part: Split, num_classes: int) -> KnownPart:
    """What is known of one part of a set."""
    digest = hashlib.blake2b(digest_size=16)
    for array in (part.ids.astype("<u8"), part.labels.astype("<i4")):
        digest.update(array.tobytes())
    counts = np.bincount(part.labels, minlength=num_classes)
    return KnownPart(len(part.labels), tuple(counts.tolist()), digest.hexdigest())


def list_changes(old: Known, new: Known) -> list[str]:
    """Lines that say in what data differ from those of before; none where they are the same."""
    lines = []
    if old.class_names != new.class_names:
        gone = [name for name in old.class_names if name not in new.class_names]
        come = [name for name in new.class_names if name not in old.class_names]
        said = [f"without {list_names(gone)}"] if gone else []
        said += [f"with {list_names(come)}"] if come else []
        lines.append(f"classes: {', '.join(said) or 'the same in another order'}")
    if old.image_shape != new.image_shape:
        shapes = ("x".join(map(str, known.image_shape)) for known in (old, new))
        lines.append("images: {} -> {}, height x width x channels".format(*shapes))
    for name, was in old.parts.items():
        now = new.parts[name]
        if was.images != now.images:
            lines.append(f"{name}: {was.images:,} -> {now.images:,} images")
        elif was.class_counts != now.class_counts:
            lines.append(f"{name}: {was.images:,} images, but other numbers of each class")
        elif was.fingerprint != now.fingerprint:
            lines.append(f"{name}: {was.images:,} images, but others, or in another order")
    ours, theirs = (known.measured or (known.mean, known.std) for known in (old, new))
    if not lines and not np.allclose(ours, theirs, atol=1e-6):
        lines.append("mean and standard deviation: the images are decoded otherwise")
    return lines


def list_names(names: Sequence[str], shown: int = 5) -> str:
    """The first few of some names, and how many there are where these are not all."""
    more = f", ... ({len(names):,} in all)" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def describe_size(size: Sequence[int]) -> str:
    """Height and width as in "28x28"."""
    return f"{size[0]}x{size[1]}"


def describe(known: Known, parts: Mapping[str, Split], source: Source) -> tuple[str, ...]:
    """Says in a few lines what was read: classes, images, parts, and what there is to know of them.

    `parts` are "train", "validation" and "test"; `source` is what they were made of, and names the
    files.
    """
    height, width, channels = known.image_shape
    size = describe_size(known.image_shape)
    if known.source_size != (height, width):
        size = f"{describe_size(known.source_size)} pixels, padded to {size}"
    classes = list_names(known.class_names).removesuffix(f" ({len(known.class_names):,} in all)")
    num_classes = len(known.class_names)
    counts = {name: f"{part.images:,}" for name, part in known.parts.items()}
    validation = f"{counts['validation']} for validation"
    if parts["validation"] is parts["test"]:
        validation = "none but these for validation"
    lines = (
        f"{num_classes:,} classes ({classes}), images of {size} pixels and {channels}"
        f" channel{'' if channels == 1 else 's'}, from {known.where}",
        f"{counts['train']} images to train on, {counts['test']} to test on, {validation}",
        *source.notes,
        *_describe_names(known),
        *_describe_copies(parts, source),
        *_describe_sameness(parts, source),
        *_describe_balance(known),
    )
    return tuple(map(printable, lines))


def _describe_names(known: Known) -> Iterator[str]:
    """A line for names of classes that differ by their case or by spaces alone."""
    alike: dict[str, list[str]] = {}
    for name in known.class_names:
        alike.setdefault("".join(name.casefold().split()), []).append(name)
    for names in (names for names in alike.values() if len(names) > 1):
        said = list_names([repr(name) for name in names])
        yield f"{said} are {len(names)} classes, though their names are nearly the same"


def _describe_copies(parts: Mapping[str, Split], source: Source) -> Iterator[str]:
    """A line for each two parts that share images."""
    names = [n for n in parts if n != "validation" or parts[n] is not parts["test"]]
    for one, other in itertools.combinations(names, 2):
        shared = np.isin(parts[other].ids, parts[one].ids)
        if count := int(shared.sum()):
            example = " and ".join(_find(parts[other].ids[shared][0], source)[:2])
            verb = "is" if count == 1 else "are"
            yield (
                f"{count:,} of the {len(shared):,} images of {other} {verb} in {one} too, such as"
                f" {example}"
            )


def _describe_sameness(parts: Mapping[str, Split], source: Source) -> Iterator[str]:
    """A line where one image has two labels, and one where a part has few different images."""
    distinct = {id(part): part for part in parts.values()}.values()
    ids = np.concatenate([part.ids for part in distinct])
    labels = np.concatenate([part.labels for part in distinct])
    order = np.lexsort((labels, ids))
    is_copy = ids[order][1:] == ids[order][:-1]
    torn = np.unique(ids[order][1:][is_copy & (np.diff(labels[order]) != 0)])
    if len(torn):
        # Copies are sorted by their labels: the first and the last differ.
        found = _find(torn[0], source)
        yield (
            f"{len(torn):,} image{'s lie' if len(torn) > 1 else ' lies'} in several classes, such"
            f" as {found[0]} and {found[-1]}: there no net can tell them apart"
        )
    for name in ("train", "test"):
        total, different = len(parts[name].ids), len(np.unique(parts[name].ids))
        if 2 * different <= total:
            yield (
                f"{different:,} of the {total:,} images of {name} are different ones, the others"
                " copies"
            )
            break  # Of the other part it is the same then, or less of a harm.


def _find(image: np.uint64, source: Source) -> list[str]:
    """Where an image lies in a set: its files, or its places in the arrays."""
    found = []
    for name in ("train", "validation", "test"):
        part, files = getattr(source, name), source.files.get(name)
        for row in np.flatnonzero(part.ids == image).tolist() if part else ():
            label = source.class_names[part.labels[row]]
            found.append(str(files[row]) if files else f"number {row} of {name} (class {label})")
    return found


def _describe_balance(known: Known) -> Iterator[str]:
    """A line for classes without a test image, one where nearly all images are of one class."""
    train, test = known.parts["train"], known.parts["test"]
    pairs = zip(known.class_names, test.class_counts, strict=True)
    if untested := [name for name, count in pairs if not count]:
        yield f"no test image of {list_names(untested)}: nothing will be known of their accuracy"
    most = int(np.argmax(train.class_counts))
    share = train.class_counts[most] / train.images
    if share >= _NEARLY_ALL:
        right = 100 * test.class_counts[most] / test.images
        yield (
            f"{100 * share:.1f} % of the training images are of class {known.class_names[most]}; to"
            f" answer always that would be right for {right:.1f} % of the test images: look at the"
            " accuracy of each class"
        )
