"""The lines of metrics.jsonl as arrays: values an epoch, and where epochs stand on an x axis."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Axis", "epoch_axis", "epoch_times", "series", "time_axis"]


class Axis(NamedTuple):
    """Where an x axis begins, and where each epoch begins and ends on it, both [epochs]."""

    origin: float
    start: np.ndarray
    end: np.ndarray
    label: str


def series(metrics: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    """The values of `key` [epochs]; NaN, which draws as a gap, where a line has none."""
    values = [line.get(key) for line in metrics]
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def epoch_axis(metrics: Sequence[Mapping[str, Any]]) -> Axis:
    """The x axis of epochs; `metrics` has at least one line."""
    epochs = np.array([line["epoch"] for line in metrics], dtype=np.float64)
    return Axis(origin=epochs[0], start=epochs, end=epochs + 1, label="epochs done")


def time_axis(metrics: Sequence[Mapping[str, Any]]) -> Axis:
    """The x axis of time since the run's start; `metrics` has at least one line."""
    start, end = epoch_times(metrics)
    unit, label = (3600, "hours") if end[-1] >= 10 * 3600 else (60, "minutes")
    return Axis(origin=0.0, start=start / unit, end=end / unit, label=label)


def epoch_times(metrics: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """When each epoch began and ended, in seconds since the run's start, both [epochs]."""
    seconds = np.nan_to_num(series(metrics, "seconds"))
    elapsed = series(metrics, "elapsed")
    end = elapsed if np.isfinite(elapsed).all() else np.cumsum(seconds)
    end = np.maximum.accumulate(end)
    # What lies between two epochs (growth, a checkpoint) is counted to the later one.
    return np.concatenate([[max(0.0, end[0] - seconds[0])], end[:-1]]), end
