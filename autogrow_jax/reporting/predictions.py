"""What a net answered, image by image: a file that label-error tools take, and what it tells."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from autogrow_jax.errors import UserError
from autogrow_jax.reporting.workdir import read_npz, write_npz

# Equal parts of 0 to 1, as calibration is usually measured.
BINS = 15


@dataclass(frozen=True)
class Predictions:
    """What a net answered to the images of a part, in the part's order.

    Attributes:
      probabilities: float32 [N, num_classes].
      predicted: int32 [N], the class that evaluation took for the net's answer.
      labels: int32 [N], the true class.
      ids: uint64 [N], by which an image is known again; see `data.Split`.
      class_names: str [num_classes].
      files: str [N], where each image lies; [0] where the images are no files.
    """

    probabilities: np.ndarray
    predicted: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    class_names: np.ndarray
    files: np.ndarray

    def write(self, path: Path) -> None:
        """Writes them as an .npz file of these arrays, whole or not at all."""
        write_npz(path, asdict(self))

    @staticmethod
    def read(path: str | os.PathLike[str]) -> "Predictions":
        """Reads such a file; UserError where it is missing or damaged."""
        try:
            found = Predictions(**read_npz(path))
            images, classes = found.probabilities.shape
            sizes = {len(found.predicted), len(found.labels), len(found.ids), images}
            if len(sizes) > 1 or classes != len(found.class_names) or not images:
                raise ValueError("its arrays are of different lengths, or empty")
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{path} is missing or damaged ({error})") from error
        return found

    @property
    def wrong(self) -> np.ndarray:
        """bool [N]."""
        return self.predicted != self.labels

    @property
    def confidence(self) -> np.ndarray:
        """float32 [N], the probability of the answer."""
        return self.probabilities[np.arange(len(self.labels)), self.predicted]

    def worst(self, most: int) -> np.ndarray:
        """Rows of wrong answers, those that the net was surest of first."""
        (rows,) = np.nonzero(self.wrong)
        return rows[np.argsort(-self.confidence[rows], kind="stable")][:most]

    def least_certain(self, most: int) -> np.ndarray:
        """Rows of the answers of lowest probability, right or wrong, the lowest first."""
        return np.argsort(self.confidence, kind="stable")[:most]

    def confusion(self) -> np.ndarray:
        """How many images of each class (rows) got each answer (columns); int64 [C, C]."""
        size = len(self.class_names)
        pairs = self.labels.astype(np.int64) * size + self.predicted
        return np.bincount(pairs, minlength=size * size).reshape(size, size)

    def confused(self, most: int) -> list[tuple[int, int, int]]:
        """The most frequent mistakes: (true class, answer, how often), the commonest first."""
        pairs = np.stack([self.labels, self.predicted])[:, self.wrong]
        kinds, counts = np.unique(pairs, axis=1, return_counts=True)
        order = np.argsort(-counts, kind="stable")[:most]
        return [(*kinds[:, i].tolist(), int(counts[i])) for i in order]

    def calibration(self) -> "Calibration":
        """How far the probability of an answer is how often such answers are right."""
        confidence, right = self.confidence.astype(np.float64), ~self.wrong
        # The upper end belongs to a bin, as a probability of 1 does.
        bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
        counts = np.bincount(bins, minlength=BINS)
        sums = (np.bincount(bins, weights=w, minlength=BINS) for w in (confidence, right))
        means = (each[counts > 0] / counts[counts > 0] for each in sums)
        return Calibration(counts[counts > 0], *means)


class Calibration(NamedTuple):
    """Of each bin that has images their number, mean probability and part that is right."""

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def error(self) -> float:
        """The expected calibration error, from 0 to 1."""
        gaps = np.abs(self.confidence - self.accuracy)
        return float(np.sum(self.counts * gaps) / np.sum(self.counts))


def wilson(right: int, of: int) -> tuple[float, float]:
    """The 95 % confidence interval of an accuracy by Wilson's score, in percent.

    >>> "{:.1f} to {:.1f}".format(*wilson(355, 359))
    '97.2 to 99.6'
    """
    z = 1.959964
    share, spread = right / of, z * z / of
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * (share * (1 - share) / of + spread / of / 4) ** 0.5
    return 100 * max(0.0, middle - half), 100 * min(1.0, middle + half)
