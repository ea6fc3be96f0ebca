"""Runs the cells of a study, each in a process of its own, some at a time; and one, in this."""

import signal
import sys
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from autogrow_jax.children import Child, stop_children
from autogrow_jax.errors import UserError
from autogrow_jax.reporting import Workdir, metrics, read_result
from autogrow_jax.reporting.numbers import format_depths, format_duration, round_percent
from autogrow_jax.reporting.workdir import hold
from autogrow_jax.steps import keep_in
from autogrow_jax.studies.cells import Cell, Folder
from autogrow_jax.studies.engines import Start, Submitted
from autogrow_jax.training import run

_POLL_SECONDS = 0.1
_BAR_SECONDS = 1.0
# From SIGTERM until SIGKILL, when the study itself is stopped.
_GRACE_SECONDS = 15


def run_cells(
    cells: Sequence[Cell],
    workdir: Path,
    slots: Sequence[Start],
    commands: Mapping[str, list[str]],
    title: str,
    stream: TextIO | None = None,
) -> None:
    """Runs every cell that is not done; what failed before is tried again.

    A cell that waits for one that fails has failed too. After Ctrl-C or SIGTERM it raises
    KeyboardInterrupt once all processes have ended.

    Args:
      cells: of the study; those that wait come after those they wait for.
      workdir: of the study, which is called `title`.
      slots: each starts a cell's command, one at a time; see `engines`.
      commands: by the cell's name, what runs it.
      stream: where to tell of it; standard error by default.
    """
    folders = {cell.name: Folder(workdir, cell) for cell in cells}
    pending = [folder for folder in folders.values() if not folder.is_done]
    # What failed in an earlier start says nothing about this one.
    for folder in pending:
        folder.error.unlink(missing_ok=True)
    free = list(slots)
    running: dict[Child | Submitted, tuple[Folder, Start]] = {}
    progress = Progress(title, len(cells), len(cells) - len(pending), stream)
    try:
        while pending or running:
            for child in [child for child in running if child.poll() is not None]:
                folder, slot = running.pop(child)
                child.close()
                free.insert(0, slot)
                _keep_reason(folder, child.returncode, getattr(child, "why", ""))
                progress.end(folder)
            waited_for = {f.cell.name for f in (*pending, *(f for f, _ in running.values()))}
            for folder in list(pending):
                if not free:  # Files are read for what follows: not ten times a second.
                    break
                finder = folders.get(folder.cell.found_by)
                if finder and finder.cell.name in waited_for:
                    continue
                if finder and not finder.is_done:
                    pending.remove(folder)
                    folder.fail(f"not run: {finder.cell.label}, which finds its net, failed")
                    progress.end(folder)
                else:
                    pending.remove(folder)
                    folder.root.mkdir(parents=True, exist_ok=True)
                    slot = free.pop(0)
                    running[slot(folder, commands[folder.cell.name])] = folder, slot
                    progress.start(folder)
            progress.show(folder for folder, _ in running.values())
            time.sleep(_POLL_SECONDS)
    finally:
        stop_children(list(running), _GRACE_SECONDS)
        progress.close()


def _keep_reason(folder: Folder, status: int, why: str = "") -> None:
    """Says why a process ended, where it has left neither a result nor a reason.

    `why` is what the engine knows of it.
    """
    if folder.state != "missing":
        return
    if status == -signal.SIGKILL:
        reason = "killed (SIGKILL): most likely the machine had no memory left"
    elif status < 0:
        name = signal.strsignal(-status) or "unknown"
        reason = f"killed by signal {-status} ({name}); its output is in {folder.log}"
    else:
        log = folder.log.read_text("utf-8", "replace") if folder.log.is_file() else ""
        told = [text for text in (why, *log.strip().splitlines()[-1:]) if text]
        reason = f"ended with status {status}: {'; '.join(told) or 'it printed nothing'}"
    folder.fail(reason)


class Progress:
    """Tells where a study stands: a line for each cell that ends, on a terminal a bar below."""

    def __init__(self, title: str, total: int, done: int, stream: TextIO | None = None):
        self._total, self._ended, self._failed = total, done, 0
        self._stream = stream or sys.stderr  # The table goes to standard output.
        self._say(f"{title}: {total} cells{f', {done} done before' if done else ''}")
        self._bar = tqdm(
            total=total,
            initial=done,
            file=self._stream,
            disable=None,  # On a terminal only.
            bar_format="{n_fmt}/{total_fmt} |{bar:20}| {remaining} left{desc}",
            smoothing=0,
            mininterval=_BAR_SECONDS,
            miniters=0,
            dynamic_ncols=True,
            leave=False,
        )
        self.close = self._bar.close

    def start(self, folder: Folder) -> None:
        if self._bar.disable:
            self._say(f"start   {folder.cell.label}", " ")

    def end(self, folder: Folder) -> None:
        """A cell ended, or could not be run."""
        self._ended += 1
        reason = folder.why_failed()
        self._failed += bool(reason)
        how, what = ("FAILED", reason.splitlines()[0]) if reason else ("done  ", _outcome(folder))
        self._say(f"{how}  {folder.cell.label}: {what}", f"[{self._ended}/{self._total}]")
        self._bar.update()

    def show(self, running: Iterable[Folder]) -> None:
        """Renews the bar, not too often."""
        if self._bar.disable or time.time() - self._bar.last_print_t < _BAR_SECONDS:
            return
        parts = [f"{self._failed} failed"] if self._failed else []
        parts += [f"{folder.cell.label} {_epoch(folder)}" for folder in running]
        self._bar.set_description_str("".join(f"; {part}" for part in parts), refresh=False)
        self._bar.update(0)

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
            f"{format_depths(result['depths'])}, test {round_percent(result['test_accuracy'])} %,"
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


# --- One cell, in this process.


def run_cell(cell: Cell, workdir: Path, started: float | None = None, waits: bool = False) -> None:
    """Runs a cell, from the start or from where it was left; nothing where it is done.

    Why it failed stays in the cell's folder, for the table. `started` is as for `training.run`. One
    that `waits` lets another process that runs the cell end first.

    Raises:
      UserError: also where another process runs this cell, or the one that finds its net is not
        done.
      Exception: whatever the run raises.
    """
    folder = Folder(workdir, cell)
    with hold(folder.lock, waits):
        if folder.is_done:
            return
        folder.error.unlink(missing_ok=True)
        keep_in(workdir / "compiled")
        try:
            run(_complete(folder), folder.run, started=started)
        except Exception as error:
            is_users = isinstance(error, UserError)
            folder.fail(str(error) if is_users else f"{type(error).__name__}: {error}")
            if not is_users:
                traceback.print_exc()
            raise


def _complete(folder: Folder) -> dict[str, Any]:
    """The settings of a cell, with what another one has found: its depths, or its net."""
    cell, found = folder.cell, Workdir(folder.found).result
    if not cell.found_by:
        return cell.settings
    if not found.is_file():
        raise UserError(
            f"the net to {'start' if cell.starts else 'train'} from{' scratch' * (not cell.starts)}"
            f" is what cell {cell.found_by} finds, which is not done; run that one first"
        )
    if cell.starts:
        return cell.completed({"init_from": str(folder.found.absolute())})
    return cell.completed({"model.depths": tuple(read_result(found)["depths"])})
