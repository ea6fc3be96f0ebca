"""Where a study stands: a line for each cell that ends, and on a terminal a bar below."""

import sys
import time
from collections.abc import Sequence
from typing import TextIO

from tqdm import tqdm

from autogrow_jax.errors import UserError
from autogrow_jax.reporting import Workdir, metrics
from autogrow_jax.reporting.result import format_depths, format_duration
from autogrow_jax.studies.cells import Cell, Folder

_BAR_SECONDS = 1.0


class StudyProgress:
    """Tells about a study.

    Args:
      title: of the study.
      stream: where to; standard error by default, as the table goes to standard output.
    """

    def __init__(self, title: str, stream: TextIO | None = None):
        self._title = title
        self._stream = stream or sys.stderr
        self._bar: tqdm = tqdm(disable=True)
        self._total = self._ended = self._num_failed = self._num_before = 0
        self._began = self._shown = 0.0

    def begin(self, num_cells: int, num_done: int) -> None:
        """The study starts, with cells that were done before."""
        self._total, self._began = num_cells, time.monotonic()
        self._ended = self._num_before = num_done
        before = f", {num_done} done before" if num_done else ""
        self._say(f"{self._title}: {num_cells} cells{before}")
        form = "{n_fmt}/{total_fmt} |{bar:20}| {desc}"
        shape = {"bar_format": form, "dynamic_ncols": True, "leave": False}
        # None: on a terminal only.
        self._bar = tqdm(
            total=num_cells, initial=num_done, file=self._stream, disable=None, **shape
        )

    def start(self, cell: Cell) -> None:
        """A cell's process was started."""
        if self._bar.disable:
            self._say(f"start   {cell.label}", " ")

    def end(self, cell: Cell, folder: Folder) -> None:
        """A cell ended, or could not be run."""
        self._ended += 1
        reason = folder.why_failed()
        self._num_failed += bool(reason)
        failed = f"FAILED  {cell.label}: {reason.splitlines()[0]}" if reason else ""
        told = failed or f"done    {cell.label}: {_outcome(folder)}"
        self._say(told, f"[{self._ended}/{self._total}]")
        self._bar.update()

    def show(self, running: Sequence[tuple[Cell, Folder]], num_pending: int) -> None:
        """Renews the bar, not too often."""
        now = time.monotonic()
        if self._bar.disable or now - self._shown < _BAR_SECONDS:
            return
        self._shown = now
        parts = [f"{self._num_failed} failed"] if self._num_failed else []
        if num_ended := self._ended - self._num_before:
            seconds = (now - self._began) / num_ended * (num_pending + len(running))
            parts.append(f"about {format_duration(seconds)} left")
        parts += [f"{cell.label} {_epoch(folder)}" for cell, folder in running]
        self._bar.set_description_str("; ".join(parts))

    def close(self) -> None:
        """Removes the bar."""
        self._bar.close()

    def _say(self, line: str, place: str = "") -> None:
        """Prints a line, above the bar where there is one."""
        if place:
            line = f"{place:>{2 * len(str(self._total)) + 3}} {line}"
        tqdm.write(line, file=self._stream)
        self._stream.flush()


def _outcome(folder: Folder) -> str:
    try:
        result = folder.result() or {}
        return (
            f"{format_depths(result['depths'])}, test {result['test_accuracy']:.2f} %,"
            f" {result['epochs']} epochs, {format_duration(result['seconds']['total'])}"
        )
    except (UserError, KeyError, TypeError) as error:
        return f"its result cannot be read: {error}"


def _epoch(folder: Folder) -> str:
    """Where a run stands that goes on: "epoch 12 3-2-2"."""
    try:
        last = metrics.read(Workdir(folder.run).metrics)[-1]
    except (UserError, IndexError):
        return "starts"
    return f"epoch {last['epoch']} {format_depths(last['depths'])}"
