"""Which depths of a growing run are fine-tuned, for how long, and which is recommended; pure.

Nets are told by their place in lists that are sorted by cost, the cheapest first: FLOPs of one
image forward. Accuracies are on the validation part, in percent.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np

from autogrow_jax.growth import standard_error

# So many nets at most are kept on the way; seed and last among them.
MOST = 8
# Parts of the fine-tuning, numerator and denominator, after which nets may be stopped, but none in
# the first half: at its high rate accuracies scatter, and deep nets gain most once it falls.
RUNGS = ((5, 8), (3, 4))
# How many standard errors a net's Brier score may be behind the best one's.
_MARGINS = {"one_se_brier": 1.0, "half_se_brier": 0.5}


class Stop(NamedTuple):
    """A net that is fine-tuned no further."""

    place: int
    epochs: int  # It had by then.
    cheaper: int  # The place of one that costs less and is as accurate, or more so.


def thin(costs: Sequence[float], most: int) -> list[int]:
    """Chooses at most `most` places whose costs are about geometric; first and last stay.

    One by one that goes whose neighbours are the nearest to each other, in the ratio of costs.
    """
    kept = list(range(len(costs)))
    while len(kept) > max(most, 2):
        gaps = [costs[after] / costs[before] for before, after in zip(kept, kept[2:], strict=False)]
        del kept[1 + gaps.index(min(gaps))]
    return kept


def afford(costs: Sequence[float], grown: float, length: int) -> list[int]:
    """Chooses the places that growth and front can have at twice the cost of what was before.

    That is growth, of cost `grown` in FLOPs times epochs, and `length` epochs of the last net. Were
    none stopped early, it would still be kept to: two nets, the first and the last, always fit. Of
    what fits, the choice is that whose costs are the closest to geometric, and close together.
    """
    last, budget = len(costs) - 1, grown + 2 * length * costs[-1]
    subsets = (
        sorted({0, *between, last})
        for size in range(max(last, 1))
        for between in combinations(range(1, last), size)
    )
    fitting = [places for places in subsets if length * sum(costs[i] for i in places) <= budget]
    return min(fitting, key=lambda places: _spread(costs[i] for i in places))


def _spread(costs: Iterable[float]) -> float:
    """How far apart costs are, in their ratios; of so many the least where they are geometric."""
    return sum(math.log(after / before) ** 2 for before, after in pairwise(costs))


def find_next(
    curves: Sequence[Sequence[float]], length: int, spared: Sequence[int] = ()
) -> tuple[int | None, list[Stop]]:
    """Says which net is to train for its next epoch, None once all have; and which are stopped.

    By successive halving. All nets train up to a rung, a part of the fine-tuning (`RUNGS`), the
    last one first. Then up to half of them are stopped: those that are dominated, the least
    accurate first, that is, where one of the others costs less and is as accurate. So the cheapest
    and the most accurate are never stopped. A net is as accurate as in its best epoch of
    fine-tuning so far, as single epochs scatter.

    Args:
      curves: of each net, the accuracies of the epochs it was fine-tuned for, `length` at most.
      spared: places that are not stopped.
    """
    running, stopped = list(range(len(curves))), list[Stop]()
    rungs = sorted({part * length // whole for part, whole in RUNGS})
    rungs = [rung for rung in rungs if length < 2 * rung < 2 * length]
    for rung in (*rungs, length):
        for place in reversed(running):
            if len(curves[place]) < rung:
                return place, stopped
        if rung < length:
            best = {place: max(curves[place][:rung]) for place in running}
            fallen = _find_dominated(best, spared)[: len(running) // 2]
            stopped += [Stop(place, rung, cheaper) for place, cheaper in fallen]
            gone = {place for place, _ in fallen}
            running = [place for place in running if place not in gone]
    return None, stopped


def _find_dominated(accuracies: dict[int, float], spared: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs of a place and a cheaper one that is as accurate; the least accurate first."""
    found = []
    for place, accuracy in accuracies.items():
        rivals = [i for i in accuracies if i < place and accuracies[i] >= accuracy]
        if rivals and place not in spared:
            found.append((place, max(rivals, key=lambda i: accuracies[i])))
    # Of equals the dearer goes.
    return sorted(found, key=lambda pair: (accuracies[pair[0]], -pair[0]))


def brier_scores(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Measures how far the chances of all classes are from the truth, for each image.

    The squared distance, from 0 to 2, that weather forecasts are scored by (Brier, 1950). It says
    more than right or wrong does. Chances are calibrated first, by the temperature at which the log
    loss on these images is least (Guo et al., 2017): nets that were trained for long are too sure,
    deep ones above all, which is no fault of their answers.

    Args:
      logits: [N, num_classes]. Of an image where they are not finite the score is 2.
      labels: int [N].

    Returns:
      float [N].
    """
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    finite = np.isfinite(logits).all(axis=1)
    scores = np.full(len(labels), 2.0)
    if finite.any():
        logits, labels = logits[finite], labels[finite]
        chances = _calibrate(logits, labels)
        truth = np.arange(chances.shape[1]) == labels[:, None]
        scores[finite] = np.square(chances - truth).sum(axis=1)
    return scores


def _calibrate(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The chances at that temperature, from 0.1 to 20, at which the mean log loss is least."""
    # Half a second to import, of runs with a front alone.
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    def logs(log_temperature: float) -> np.ndarray:
        return log_softmax(logits / np.exp(log_temperature), axis=1)

    def loss(log_temperature: float) -> float:
        return -logs(log_temperature)[np.arange(len(labels)), labels].mean()

    limits = np.log(0.1), np.log(20.0)
    found = minimize_scalar(loss, bounds=limits, method="bounded", options={"xatol": 1e-3})
    return np.exp(logs(found.x))


def compare(scores: Sequence[np.ndarray]) -> list[tuple[float, float]]:
    """How far each net's mean score is behind the lowest, and the standard error of that.

    Of the differences on the same images, which scatter less than the scores. One image is added
    that one net has wholly right and the other wholly wrong, a difference of 2, so that it is never
    0, and no net is behind by more than it for one image.

    Args:
      scores: of each net, float [N] of the same images; less is better.
    """
    best = min(scores, key=lambda each: each.mean())
    found = []
    for each in scores:
        behind = each - best
        mean = float(behind.mean())
        error = math.sqrt(float(np.square(behind - mean).sum()) + 4) / len(behind)
        found.append((mean, error))
    return found


def recommend(
    accuracies: Sequence[float],
    images: int,
    choose: str,
    times: Sequence[float] = (),
    most_time: float = 0.0,
    scores: Sequence[np.ndarray] = (),
) -> int:
    """Chooses a net.

    Args:
      accuracies: of each net, on so many `images`.
      choose: "one_se_brier" or "half_se_brier", the cheapest whose Brier score is within a standard
        error, or half of one, of the best one's, see `compare`; "one_se", the cheapest whose
        accuracy is within one; "best", the most accurate, of equals the cheapest; "last".
      times: of each net, what `most_time` limits; 0 is no limit. Only nets within it are looked at;
        where there is none, the fastest is chosen.
      scores: of each net, `brier_scores` on these images, for the rules that go by them.
    """
    places = list(range(len(accuracies)))
    if most_time:
        fast = [i for i in places if times[i] <= most_time]
        places = fast or [min(places, key=lambda i: times[i])]
    if choose == "last":
        return places[-1]
    if (most := _MARGINS.get(choose)) is not None:
        behind = compare([scores[i] for i in places])
        near = (i for i, (mean, error) in zip(places, behind, strict=True) if mean <= most * error)
        return next(near)
    best = max(places, key=lambda i: accuracies[i])
    least = accuracies[best]
    if choose == "one_se":
        least -= standard_error(accuracies[best], images)
    return next(i for i in places if accuracies[i] >= least)
