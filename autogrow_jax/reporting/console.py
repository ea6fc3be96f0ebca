"""What a person sees of a run in a terminal: one line an epoch, a bar within it, each growth."""

import math
import os
import sys
import time
from collections.abc import Sequence
from statistics import median
from typing import ClassVar, NamedTuple, TextIO

from tqdm import tqdm

from autogrow_jax.errors import printable
from autogrow_jax.reporting.metrics import Line, Lines, best_accuracy, kept_depths
from autogrow_jax.reporting.numbers import format_depths, round_percent
from autogrow_jax.reporting.result import format_result

EPOCH_HEADER = (
    f"{'epoch':>6}  {'phase':<8}  {'depths':<15}  {'train loss':>10} {'acc %':>6}  "
    f"{'val. acc %':>10} {'best %':>6}  {'lr':>8}  {'seconds':>8}"
)

_LINES_PER_HEADER = 50
# Signs of a bar that is worth its place, and epochs that tell how long the next one takes.
_BAR_WIDTH, _EPOCHS_TIMED = 10, 5
# An epoch that is shorter has no bar before it begins.
_SECONDS_SHOWN = 0.5


class EpochStart(NamedTuple):
    """An epoch that begins.

    Attributes:
      epoch: its number, from 0.
      phase: "growth", "finetune" or "scratch".
      depths: blocks in each stage of the net that it trains.
      steps: how many there are in it.
      left: epochs that are left of the phase, this one included: of "growth" the fewest, as if
        accuracy rose no more, of a front the most; None where nobody knows.
    """

    epoch: int
    phase: str
    depths: Sequence[int]
    steps: int
    left: int | None = None


class Reporter:
    """What the training loop tells about a run while it goes on; to be subclassed.

    Every method does nothing here. The order is `begin_run`, then for each epoch `growth` (where
    the net grew before it), `begin_epoch`, `epoch_progress` any number of times and `end_epoch`,
    then `end_run`.
    `message` may come at any time, and `close` last, also after an exception.
    """

    def begin_run(self, title: str, *, previous: Lines = ()) -> None:
        """The run that `title` names in a line begins, after the epochs of the lines `previous`."""

    def begin_epoch(self, start: EpochStart) -> None:
        """An epoch begins."""

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
        # Of the running epoch: what begins the bar; phase and epochs that are left of it.
        self._head, self._phase, self._began = "", ("", 0), 0.0

    def begin_run(self, title: str, *, previous: Lines = ()) -> None:
        self.close()
        self._lines = list(previous)
        self._num_shown = 0
        self.message(title)
        if previous:
            depths = format_depths(kept_depths(previous)[-1])
            self.message(f"resumed after epoch {previous[-1]['epoch']}, depths {depths}")

    def begin_epoch(self, start: EpochStart) -> None:
        best = best_accuracy(self._lines)
        known = [format_depths(start.depths)]
        known += [] if math.isnan(best) else [f"best {round_percent(best)} %"]
        self._head, self._phase = f", {', '.join(known)}", (start.phase, start.left or 0)
        self._began = time.perf_counter()
        # At once, as the first steps may wait for a compiler; but not to be gone at once.
        if not self._lines or (self._lines[-1].get("seconds") or 0.0) >= _SECONDS_SHOWN:
            self.epoch_progress(start.epoch, 0, start.steps)

    def epoch_progress(
        self, epoch: int, steps_done: int, steps_total: int, images_per_second: float | None = None
    ) -> None:
        if not self._show_bar:
            return
        desc = f"epoch {epoch}{self._head}"
        rate = "" if images_per_second is None else f", {images_per_second:,.0f} images/s"
        ends = self._tell_phase(steps_done / steps_total), rate
        if self._bar is None or desc != self._bar.desc:
            self.close()
            self._bar = _Bar(
                # The clock starts now: the steps before count for the bar, not for the time left.
                initial=steps_done,
                total=steps_total,
                desc=desc,
                file=self._stderr,
                leave=False,
                dynamic_ncols=True,
                miniters=1,
                bar_format=_choose_form(self._stderr, desc, steps_total, *ends),
            )
        else:
            self._bar.bar_format = _choose_form(self._stderr, desc, steps_total, *ends)
            self._bar.update(steps_done - self._bar.n)

    def _tell_phase(self, part: float) -> str:
        """What is left of the phase, in words, where `part` of the epoch is done."""
        phase, epochs = self._phase
        if not epochs:
            return ""
        spent = time.perf_counter() - self._began
        lasted = [line["seconds"] for line in self._lines[-_EPOCHS_TIMED:] if line.get("seconds")]
        if not lasted and not part:
            return ""
        each = median(lasted) if lasted else spent / part
        left = (epochs - 1) * each + max(each - spent, 0.0)
        more = "+" if phase == "growth" else ""
        return f", {phase} {tqdm.format_interval(left)}{more} left"

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
            self.message(f"ends with {depths}, {round_percent(tested)} % on test")


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
        f"{round_percent(train):>6}  {round_percent(validation):>10} {round_percent(best):>6}"
        f"  {rate:>8.3g}  {seconds:>8.1f}"
    )


def describe_growth(before: Sequence[int], after: Sequence[int], initializer: str) -> str:
    """A growth in a line: "grew stage 1: 2-1-1 -> 2-2-1 (gaussian)". Stages count from 0."""
    pairs = zip(before, after, strict=True)
    stages = [str(stage) for stage, (old, new) in enumerate(pairs) if old != new]
    where = f"stage{'' if len(stages) == 1 else 's'} {', '.join(stages)}"
    return f"grew {where}: {format_depths(before)} -> {format_depths(after)} ({initializer})"


def _choose_form(stream: TextIO, desc: str, steps: int, phase: str, rate: str) -> str:
    """Leaves out of the bar what a narrow terminal has no room for, the least of it first."""
    try:
        width = os.get_terminal_size(stream.fileno()).columns or math.inf
    except (AttributeError, OSError, ValueError):  # No terminal, and no file perhaps.
        width = math.inf
    counts, digits = "{n_fmt}/{total_fmt} steps, ", 2 * len(str(steps)) + 9
    needed = len(f"{desc} 100% ||  00:00 left{phase}") + _BAR_WIDTH
    if needed + digits + len(rate) > width:
        rate = ""
    if needed + digits > width:
        counts = ""
    return f"{{desc}} {{percentage:3.0f}}% |{{bar}}| {counts}{{remaining}} left{phase}{rate}"


class _Bar(tqdm):
    # tqdm's monitor thread only redraws bars that stall; without it there is no thread that a
    # process forked later would have to fear.
    monitor_interval: ClassVar[int] = 0
