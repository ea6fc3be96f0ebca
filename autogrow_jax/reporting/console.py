"""What a person sees of a run in a terminal: one line an epoch, a bar within it, each growth."""

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TextIO

from tqdm import tqdm

from autogrow_jax.reporting.metrics import find_kept, kept_depths
from autogrow_jax.reporting.result import format_depths, format_result

__all__ = [
    "EPOCH_HEADER",
    "ConsoleReporter",
    "QuietReporter",
    "Reporter",
    "describe_growth",
    "format_epoch",
]

EPOCH_HEADER = (
    f"{'epoch':>6}  {'phase':<8}  {'depths':<15}  {'train loss':>10} {'acc %':>6}  "
    f"{'val. acc %':>10} {'best %':>6}  {'lr':>8}  {'seconds':>8}"
)

_LINES_PER_HEADER = 50


class Reporter:
    """What the training loop tells about a run while it goes on; to be subclassed.

    Every method does nothing here. The order is `begin_run`, then for each epoch `growth` (where
    the net grew before it), `epoch_progress` any number of times and `end_epoch`, then `end_run`.
    `message` may come at any time, and `close` last, also after an exception.
    """

    def begin_run(
        self,
        title: str,
        *,
        num_epochs: int | None = None,
        previous: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """The run begins.

        Args:
          title: one line that names it, such as "basic3 on cifar10".
          num_epochs: how many epochs it will have, where that is known before (it is not while a
            policy may still stop growth).
          previous: the metrics lines of the epochs it has behind it, if it resumes.
        """

    def epoch_progress(
        self,
        epoch: int,
        steps_done: int,
        steps_total: int,
        images_per_second: float | None = None,
    ) -> None:
        """`steps_done` of the `steps_total` training steps of `epoch` (0-based) are done."""

    def end_epoch(self, line: Mapping[str, Any]) -> None:
        """An epoch is over; `line` is its line of metrics.jsonl."""

    def growth(self, before: Sequence[int], after: Sequence[int], initializer: str) -> None:
        """The net grew from depths `before` to `after`, new blocks started by `initializer`."""

    def message(self, text: str) -> None:
        """Something else worth a line."""

    def end_run(self, result: Mapping[str, Any] | None = None) -> None:
        """The run is over; `result` is what result.json holds."""

    def close(self) -> None:
        """Leaves the terminal clean; may be called twice, and after any other call."""


class QuietReporter(Reporter):
    """A `Reporter` that says nothing, for tests and notebooks."""


class ConsoleReporter(Reporter):
    """A `Reporter` for a terminal: lines go to stdout, the bar of the running epoch to stderr."""

    def __init__(
        self,
        *,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
        show_bar: bool | None = None,
    ):
        """Makes a reporter; nothing is written yet.

        Args:
          stdout: where lines go; by default what `sys.stdout` is when the reporter is made.
          stderr: where the bar goes; by default what `sys.stderr` is when the reporter is made.
          show_bar: True or False forces; by default there is a bar where `stderr` is a terminal.
        """
        self._stdout = sys.stdout if stdout is None else stdout
        self._stderr = sys.stderr if stderr is None else stderr
        self._show_bar = self._stderr.isatty() if show_bar is None else show_bar
        self._bar: _Bar | None = None
        self._bar_epoch = -1
        self._best = math.nan
        self._trials: list[Mapping[str, Any]] = []
        self._lines_since_header = 0

    def begin_run(
        self,
        title: str,
        *,
        num_epochs: int | None = None,
        previous: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.close()
        self._best = math.nan
        self._trials = []
        for line in previous:
            self._update_best(line)
        self._print(title if num_epochs is None else f"{title}, {num_epochs:,} epochs")
        if previous:
            last = previous[-1]
            depths = format_depths(kept_depths(previous)[-1])
            self._print(f"resumed after epoch {last['epoch']}, depths {depths}")
        self._lines_since_header = _LINES_PER_HEADER  # The header comes with the first epoch.

    def epoch_progress(
        self,
        epoch: int,
        steps_done: int,
        steps_total: int,
        images_per_second: float | None = None,
    ) -> None:
        if not self._show_bar:
            return
        rate = "" if images_per_second is None else f"{images_per_second:,.0f} images/s"
        if self._bar is None or epoch != self._bar_epoch:
            self.close()
            self._bar = _make_bar(f"epoch {epoch}", steps_done, steps_total, rate, self._stderr)
            self._bar_epoch = epoch
        else:
            self._bar.set_postfix_str(rate, refresh=False)
            self._bar.update(steps_done - self._bar.n)

    def end_epoch(self, line: Mapping[str, Any]) -> None:
        self.close()
        self._update_best(line)
        if self._lines_since_header >= _LINES_PER_HEADER:
            self._print(EPOCH_HEADER)
            self._lines_since_header = 0
        self._print(format_epoch(line, self._best))
        self._lines_since_header += 1

    def growth(self, before: Sequence[int], after: Sequence[int], initializer: str) -> None:
        self._print(f"{'':8}{describe_growth(before, after, initializer)}")

    def message(self, text: str) -> None:
        self._print(text)

    def end_run(self, result: Mapping[str, Any] | None = None) -> None:
        self.close()
        if result is not None:
            self._print(f"\n{format_result(result)}")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _print(self, text: str) -> None:
        # Not tqdm.write: it clears bars on the real sys.stdout and sys.stderr only.
        if self._bar is not None:
            self._bar.clear()
        print(text, file=self._stdout, flush=True)
        if self._bar is not None:
            self._bar.refresh()

    def _update_best(self, line: Mapping[str, Any]) -> None:
        # A trial counts once the line after its round shows that it was kept.
        self._trials.append(line)
        if line.get("trial") is not None:
            return
        for known, kept in zip(self._trials, find_kept(self._trials), strict=True):
            accuracy = _number(known.get("validation_accuracy"))
            # Also where best is NaN.
            if kept and not self._best >= accuracy and not math.isnan(accuracy):
                self._best = accuracy
        self._trials = []


def format_epoch(line: Mapping[str, Any], best: float) -> str:
    """One epoch as the columns of `EPOCH_HEADER`; what is missing from `line` reads "nan".

    An epoch of trial has "trial" and the stage for its phase.

    Args:
      line: a line of metrics.jsonl.
      best: the best validation accuracy so far, in percent.
    """
    trial = line.get("trial")
    phase = line.get("phase", "") if trial is None else f"trial {trial}"
    return (
        f"{line['epoch']:>6}  {phase:<8}  {format_depths(line['depths']):<15}  "
        f"{_number(line.get('train_loss')):>10.4f} {_number(line.get('train_accuracy')):>6.2f}  "
        f"{_number(line.get('validation_accuracy')):>10.2f} {best:>6.2f}  "
        f"{_number(line.get('learning_rate')):>8.3g}  {_number(line.get('seconds')):>8.1f}"
    )


def describe_growth(before: Sequence[int], after: Sequence[int], initializer: str) -> str:
    """A growth in a line: "grew stage 1: 2-1-1 -> 2-2-1 (gaussian)". Stages count from 0."""
    pairs = zip(before, after, strict=True)
    stages = [str(stage) for stage, (old, new) in enumerate(pairs) if old != new]
    word = "stage" if len(stages) == 1 else "stages"
    return (
        f"grew {word} {', '.join(stages)}: {format_depths(before)} -> {format_depths(after)} "
        f"({initializer})"
    )


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


class _Bar(tqdm):
    # tqdm's monitor thread only redraws bars that stall; without it there is no thread that a
    # process forked later would have to fear.
    monitor_interval: ClassVar[int] = 0


def _make_bar(
    description: str, steps_done: int, steps_total: int, rate: str, stream: TextIO
) -> _Bar:
    return _Bar(
        # The clock starts now: the steps before count for the bar but not for the time left.
        initial=steps_done,
        total=steps_total,
        postfix=rate,
        desc=description,
        file=stream,
        leave=False,
        dynamic_ncols=True,
        miniters=1,
        bar_format="{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} steps, "
        "{remaining} left{postfix}",
    )
