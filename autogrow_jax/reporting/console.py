"""What a person sees of a run in a terminal: one line an epoch, a bar within it, each growth."""

import math
import sys
from collections.abc import Sequence
from typing import ClassVar, TextIO

from tqdm import tqdm

from autogrow_jax.errors import printable
from autogrow_jax.reporting.metrics import Line, Lines, best_accuracy, kept_depths
from autogrow_jax.reporting.result import format_depths, format_result

EPOCH_HEADER = (
    f"{'epoch':>6}  {'phase':<8}  {'depths':<15}  {'train loss':>10} {'acc %':>6}  "
    f"{'val. acc %':>10} {'best %':>6}  {'lr':>8}  {'seconds':>8}"
)

_LINES_PER_HEADER = 50
_BAR = "{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} steps, {remaining} left{postfix}"


class Reporter:
    """What the training loop tells about a run while it goes on; to be subclassed.

    Every method does nothing here. The order is `begin_run`, then for each epoch `growth` (where
    the net grew before it), `epoch_progress` any number of times and `end_epoch`, then `end_run`.
    `message` may come at any time, and `close` last, also after an exception.
    """

    def begin_run(self, title: str, *, num_epochs: int | None = None, previous: Lines = ()) -> None:
        """The run that `title` names in a line begins, after the epochs of the lines `previous`.

        It will have `num_epochs`, where that is known: a policy may still stop growth.
        """

    def epoch_progress(
        self, epoch: int, steps_done: int, steps_total: int, images_per_second: float | None = None
    ) -> None:
        """`steps_done` of the `steps_total` training steps of `epoch` (0-based) are done."""

    def end_epoch(self, line: Line) -> None:
        """An epoch is over; `line` is its line of metrics.jsonl."""

    def growth(self, before: Sequence[int], after: Sequence[int], initializer: str) -> None:
        """The net grew from depths `before` to `after`, new blocks started by `initializer`."""

    def message(self, text: str) -> None:
        """Something else worth a line."""

    def end_run(self, result: Line | None = None) -> None:
        """The run is over; `result` is what result.json holds."""

    def close(self) -> None:
        """Leaves the terminal clean; may be called twice, and after any other call."""


class QuietReporter(Reporter):
    """A `Reporter` that says nothing, for tests and notebooks."""


class ConsoleReporter(Reporter):
    """A `Reporter` for a terminal: lines go to stdout, the bar of the running epoch to stderr.

    By default these are the process's when the reporter is made, and there is a bar where `stderr`
    is a terminal; `show_bar` forces.
    """

    def __init__(
        self,
        *,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
        show_bar: bool | None = None,
    ):
        self._stdout = stdout or sys.stdout
        self._stderr = stderr or sys.stderr
        self._show_bar = self._stderr.isatty() if show_bar is None else show_bar
        self._bar: _Bar | None = None
        self._lines: list[Line] = []
        self._num_shown = 0

    def begin_run(self, title: str, *, num_epochs: int | None = None, previous: Lines = ()) -> None:
        self.close()
        self._lines = list(previous)
        self._num_shown = 0
        self.message(title if num_epochs is None else f"{title}, {num_epochs:,} epochs")
        if previous:
            depths = format_depths(kept_depths(previous)[-1])
            self.message(f"resumed after epoch {previous[-1]['epoch']}, depths {depths}")

    def epoch_progress(
        self, epoch: int, steps_done: int, steps_total: int, images_per_second: float | None = None
    ) -> None:
        if not self._show_bar:
            return
        rate = "" if images_per_second is None else f"{images_per_second:,.0f} images/s"
        desc = f"epoch {epoch}"
        if self._bar is None or desc != self._bar.desc:
            self.close()
            self._bar = _Bar(
                # The clock starts now: the steps before count for the bar, not for the time left.
                initial=steps_done,
                total=steps_total,
                postfix=rate,
                desc=desc,
                file=self._stderr,
                leave=False,
                dynamic_ncols=True,
                miniters=1,
                bar_format=_BAR,
            )
        else:
            self._bar.set_postfix_str(rate, refresh=False)
            self._bar.update(steps_done - self._bar.n)

    def end_epoch(self, line: Line) -> None:
        self.close()
        self._lines.append(line)
        if self._num_shown % _LINES_PER_HEADER == 0:
            self.message(EPOCH_HEADER)
        self._num_shown += 1
        self.message(format_epoch(line, best_accuracy(self._lines)))

    def growth(self, before: Sequence[int], after: Sequence[int], initializer: str) -> None:
        self.message(f"{'':8}{describe_growth(before, after, initializer)}")

    def message(self, text: str) -> None:
        # Not tqdm.write: it clears bars on the real sys.stdout and sys.stderr only.
        if self._bar is not None:
            self._bar.clear()
        print(printable(text), file=self._stdout, flush=True)
        if self._bar is not None:
            self._bar.refresh()

    def end_run(self, result: Line | None = None) -> None:
        self.close()
        if result is not None:
            self.message(f"\n{format_result(result)}")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class SeedReporter(ConsoleReporter):
    """A `Reporter` of one seed among several: a line an epoch, with the seed before it."""

    def __init__(self, seed: int):
        super().__init__(show_bar=False)
        self._seed = seed

    def end_epoch(self, line: Line) -> None:
        self._lines.append(line)
        self.message(format_epoch(line, best_accuracy(self._lines)))

    def message(self, text: str) -> None:
        super().message(f"seed {self._seed}: {text}")

    def end_run(self, result: Line | None = None) -> None:
        if result is not None:
            depths, tested = format_depths(result["depths"]), result["test_accuracy"]
            self.message(f"ends with {depths}, {tested:.2f} % on test")


def format_epoch(line: Line, best: float) -> str:
    """A line of metrics.jsonl in the columns of `EPOCH_HEADER`; what it lacks reads "nan".

    An epoch of trial has "trial" and the stage for its phase; `best` is the best validation
    accuracy so far, in percent.
    """
    trial = line.get("trial")
    phase = line.get("phase", "") if trial is None else f"trial {trial}"
    keys = ("train_loss", "train_accuracy", "validation_accuracy", "learning_rate", "seconds")
    found = (line.get(key) for key in keys)
    loss, train, validation, rate, seconds = (math.nan if x is None else float(x) for x in found)
    return (
        f"{line['epoch']:>6}  {phase:<8}  {format_depths(line['depths']):<15}  {loss:>10.4f} "
        f"{train:>6.2f}  {validation:>10.2f} {best:>6.2f}  {rate:>8.3g}  {seconds:>8.1f}"
    )


def describe_growth(before: Sequence[int], after: Sequence[int], initializer: str) -> str:
    """A growth in a line: "grew stage 1: 2-1-1 -> 2-2-1 (gaussian)". Stages count from 0."""
    pairs = zip(before, after, strict=True)
    stages = [str(stage) for stage, (old, new) in enumerate(pairs) if old != new]
    where = f"stage{'' if len(stages) == 1 else 's'} {', '.join(stages)}"
    return f"grew {where}: {format_depths(before)} -> {format_depths(after)} ({initializer})"


class _Bar(tqdm):
    # tqdm's monitor thread only redraws bars that stall; without it there is no thread that a
    # process forked later would have to fear.
    monitor_interval: ClassVar[int] = 0
