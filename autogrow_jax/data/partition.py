"""Which images go where: held-out parts and dataset-size subsets, drawn from a seed."""

import numpy as np

from autogrow_jax.data.types import Split
from autogrow_jax.errors import UserError

# Every use of the seed draws from a stream of its own, so that one never shifts another.
_TEST, _VALIDATION, _SUBSET = 0, 1, 2
TEST_FRACTION = 0.2


def hold_out_test(part: Split, where: str) -> tuple[Split, Split]:
    """Takes a stratified 20 % test part from a set that brings none: (rest, test).

    It depends on the labels alone, never on a run's seed: every run tests on the same images.
    """
    return _hold_out(part, TEST_FRACTION, [_TEST], where)


def hold_out_validation(part: Split, fraction: float, seed: int, where: str) -> tuple[Split, Split]:
    """Takes a stratified validation part out of train: (rest, validation), in train's order.

    Each class gives `fraction` of its images, rounded, but at least one and never its last.

    Raises:
      UserError: names `where`; no class has two images.
    """
    return _hold_out(part, fraction, [seed, _VALIDATION], where)


def subset(part: Split, fraction: float, seed: int, least: int = 1) -> Split:
    """Keeps a random fraction of train: the paper's dataset-size study.

    Stratified, so that the study varies the size and not the class balance: each class keeps
    `fraction` of its images, rounded, and at least `least` as far as it has them, in train's order.
    For one seed smaller subsets lie inside larger. A fraction of 1 returns `part` itself.
    """
    if fraction == 1:
        return part
    return _take(part, _chosen(part.labels, fraction, [seed, _SUBSET], keep=0, least=least))


def _hold_out(part: Split, fraction: float, stream: list[int], where: str) -> tuple[Split, Split]:
    chosen = _chosen(part.labels, fraction, stream, keep=1)
    if not chosen.any():
        raise UserError(
            f"{where}: no class has two images, so none can be held out of the {len(chosen)}; "
            "bring more images, or a validation and a test part of its own"
        )
    return _take(part, ~chosen), _take(part, chosen)


def _chosen(
    labels: np.ndarray, fraction: float, stream: list[int], keep: int, least: int = 1
) -> np.ndarray:
    """bool [N]: `fraction` of each class, at least `least`, leaving at least `keep` of it."""
    rng = np.random.default_rng(stream)
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = min(max(int(fraction * len(members) + 0.5), least), len(members) - keep)
        chosen[rng.permutation(members)[:count]] = True
    return chosen


def _take(part: Split, mask: np.ndarray) -> Split:
    # Copies what it takes into memory; only parts left whole stay memory maps.
    return Split(np.asarray(part.images[mask]), part.labels[mask], part.ids[mask])
