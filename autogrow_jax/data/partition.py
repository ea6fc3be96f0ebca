"""Which images go where: held-out parts and dataset-size subsets, drawn from a seed.

Each image is held out or not by a draw of its own from [0, 1), made of the seed and the image's id:
below the fraction or not. So images that are added later move no other one, above all none from
train to test, and copies of one image go together (but in a class that is one image many times, as
it could not be divided). What this gives up is exact counts: no rule that takes a fifth of every
number of images can do without moving some. A part of n images, or a class of n in it, is as large
as asked for but for a standard deviation of sqrt(n * fraction * (1 - fraction)).

A class that would have no image in one of two parts is mended: its image of the smallest draw is
held out, or that of the largest is not. When images are added, the first kind can go back to train,
which harms nothing. Only an image that stayed as the last of its class can become a test image.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from autogrow_jax.errors import UserError, nearest
from autogrow_jax.files import Source, Split, plain_name, take

# Every use of the seed draws from a stream of its own, so that one never shifts another. Any
# numbers would do; with these scikit-learn's digits come close to the fractions in every class.
_TEST, _VALIDATION, _SUBSET = 18561, 5216, 2
TEST_FRACTION = 0.2


def hold_out_test(part: Split, where: str) -> tuple[Split, Split]:
    """Takes a test part of about 20 % from a set that brings none: (rest, test).

    It depends on the images alone, never on a run's seed: every run tests on the same images.
    """
    return _hold_out(part, TEST_FRACTION, _TEST, 0, where)


def hold_out_validation(part: Split, fraction: float, seed: int, where: str) -> tuple[Split, Split]:
    """Takes a validation part out of train: (rest, validation), in train's order.

    Each class gives about `fraction` of its images, but at least one and never its last.

    Raises:
      UserError: names `where`; no class has two images.
    """
    return _hold_out(part, fraction, _VALIDATION, seed, where)


def subset(part: Split, fraction: float, seed: int, least: int = 1) -> Split:
    """Keeps a random fraction of train: the paper's dataset-size study.

    Stratified, so that the study varies the size and not the class balance: each class keeps the
    images of its smallest draws, `fraction` of them, rounded, and at least `least` as far as it has
    them, in train's order. For one seed smaller subsets lie inside larger. The counts are exact, as
    what is left out here is not tested on either. A fraction of 1 returns `part` itself.
    """
    if fraction == 1:
        return part

    def count(ranked: np.ndarray) -> int:
        return min(max(int(fraction * len(ranked) + 0.5), least), len(ranked))

    return take(part, _choose(part, _SUBSET, seed, count))


def keep_classes(source: Source, names: str | Sequence[str]) -> Source:
    """Leaves out the images of all classes but those named; "" or none keeps all.

    Names are a sequence, or one text with commas between.

    Classes stay in their order, and an image is in the same part as without this.

    Raises:
      UserError: a name that no class has, fewer than two names, a part without an image of them.
    """
    if not names:
        return source
    given = names.split(",") if isinstance(names, str) else names
    wanted = {plain_name(str(name)) for name in given}
    for name in sorted(wanted - set(source.class_names)):
        raise UserError(f"{source.where} has no class {name!r}{nearest(name, source.class_names)}")
    if len(wanted) < 2:
        raise UserError(f"classes is {names!r}, one class of {source.where}; name at least two")
    kept = np.array([name in wanted for name in source.class_names])
    changes: dict[str, Any] = {"class_names": tuple(c for c in source.class_names if c in wanted)}
    files = {**source.files}
    for name in ("train", "validation", "test"):
        if (part := getattr(source, name)) is not None:
            mask = kept[part.labels]
            if not mask.any():
                raise UserError(
                    f"{source.where}: no image of the classes {names!r} in its {name} part"
                )
            taken = take(part, mask)
            places = np.cumsum(kept, dtype=np.int32) - 1
            changes[name] = taken._replace(labels=places[taken.labels])
            if name in files:
                files[name] = [files[name][row] for row in np.flatnonzero(mask).tolist()]
    return source._replace(**changes, files=files)


def _draw(ids: np.ndarray, stream: int, seed: int) -> np.ndarray:
    """Draws from [0, 1) for uint64 ids [N], one for copies of one image: SplitMix64's mixing."""
    start = hashlib.blake2b(f"{stream} {seed}".encode(), digest_size=8).digest()
    mixed: np.ndarray = ids ^ np.frombuffer(start, "<u8").astype(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53


def _hold_out(
    part: Split, fraction: float, stream: int, seed: int, where: str
) -> tuple[Split, Split]:
    def count(ranked: np.ndarray) -> int:
        return min(max(int(np.sum(ranked < fraction)), 1), len(ranked) - 1)

    chosen = _choose(part, stream, seed, count)
    if not chosen.any():
        raise UserError(
            f"{where}: no class has two images, so none can be held out of the {len(chosen)}; "
            "bring more images, or a validation and a test part of its own"
        )
    return take(part, ~chosen), take(part, chosen)


def _choose(part: Split, stream: int, seed: int, count: Callable[[np.ndarray], int]) -> np.ndarray:
    """bool [N]: of each class the images of the smallest draws, `count(its sorted draws)` of them.

    Copies of one image count as one, unless the class has no other.
    """
    chosen = np.zeros(len(part.labels), bool)
    by_class = np.argsort(part.labels, kind="stable")
    for members in np.split(by_class, np.flatnonzero(np.diff(part.labels[by_class])) + 1):
        ids = part.ids[members]
        if (ids == ids[0]).all():
            ids = ids + np.arange(len(ids), dtype=np.uint64)
        draws = _draw(ids, stream, seed)
        ranked = np.unique(draws)
        chosen[members] = draws < np.append(ranked, 1.0)[count(ranked)]
    return chosen
