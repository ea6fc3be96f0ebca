"""Runs the cells of a study, each in a process of its own, some at a time; and one, in this."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

from tqdm import tqdm

from autogrow_jax.errors import UserError
from autogrow_jax.process import Slot
from autogrow_jax.reporting import Workdir, metrics
from autogrow_jax.reporting.result import format_depths, format_duration
from autogrow_jax.studies.cells import Cell, Folder
from autogrow_jax.training import run
from autogrow_jax.training.programs import keep_in

try:
    import fcntl
except ImportError:  # Windows: there nobody notices that two processes run one cell.
    fcntl = None  # type: ignore[assignment]

_POLL_SECONDS = 0.1
_BAR_SECONDS = 1.0
# From SIGTERM until SIGKILL, when the study itself is stopped.
_GRACE_SECONDS = 15


class _Running(NamedTuple):
    folder: Folder
    slot: Slot
    process: subprocess.Popen
    parent_end: int  # Of the pipe that tells the process when this one has died.


def run_cells(
    cells: Sequence[Cell],
    workdir: Path,
    slots: Sequence[Slot],
    make_command: Callable[[Cell], list[str]],
    title: str,
    stream: TextIO | None = None,
) -> None:
    """Runs every cell that is not done; what failed before is tried again.

    A cell that waits for one that fails has failed too.

    Args:
      cells: of the study; those that wait come after those they wait for.
      workdir: of the study.
      slots: what each process that runs at the same time may use; at least one.
      make_command: the command line that runs a cell.
      title: of the study.
      stream: where to tell of it; standard error by default.

    Raises:
      KeyboardInterrupt: after Ctrl-C or SIGTERM, once all processes have ended.
    """
    folders = {cell.name: Folder(workdir, cell) for cell in cells}
    pending = [folder for folder in folders.values() if not folder.is_done]
    # What failed in an earlier start says nothing about this one.
    for folder in pending:
        folder.error.unlink(missing_ok=True)
    free = list(slots)
    running: list[_Running] = []
    progress = Progress(title, len(cells), len(cells) - len(pending), stream)
    try:
        while pending or running:
            for job in [job for job in running if job.process.poll() is not None]:
                running.remove(job)
                free.insert(0, job.slot)
                _end(job)
                progress.end(job.folder)
            waited_for = {f.cell.name for f in (*pending, *(job.folder for job in running))}
            for folder in list(pending):
                found_by = folder.cell.found_by
                if found_by in waited_for:
                    continue
                if found_by in folders and not folders[found_by].is_done:
                    pending.remove(folder)
                    label = folders[found_by].cell.label
                    folder.fail(f"not run: {label}, which finds its net, failed")
                    progress.end(folder)
                elif free:
                    pending.remove(folder)
                    running.append(_start(folder, free.pop(0), make_command(folder.cell)))
                    progress.start(folder)
            progress.show([job.folder for job in running])
            time.sleep(_POLL_SECONDS)
    finally:
        _stop(running)
        progress.close()


def _start(folder: Folder, slot: Slot, command: list[str]) -> _Running:
    folder.root.mkdir(parents=True, exist_ok=True)
    child_end, parent_end = os.pipe()
    cores = os.sched_getaffinity(0) if slot.cores else set()
    try:
        if slot.cores:  # A process has the cores of the one that starts it.
            os.sched_setaffinity(0, slot.cores)
        with folder.log.open("ab") as log:
            process = subprocess.Popen(
                [*command, f"--parent={child_end}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | slot.environment,
                pass_fds=(child_end,),
                # Ctrl-C in the terminal reaches this process only, which then stops the others.
                start_new_session=True,
            )
    finally:
        os.close(child_end)
        if slot.cores:
            os.sched_setaffinity(0, cores)
    return _Running(folder, slot, process, parent_end)


def _end(job: _Running) -> None:
    """Keeps why a process ended, where it has left neither a result nor a reason."""
    os.close(job.parent_end)
    folder, status = job.folder, job.process.returncode
    if folder.state != "missing":
        return
    if status == -signal.SIGKILL:
        reason = "killed (SIGKILL): most likely the machine had no memory left"
    elif status < 0:
        name = signal.strsignal(-status) or "unknown"
        reason = f"killed by signal {-status} ({name}); its output is in {folder.log}"
    else:
        lines = folder.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        reason = f"ended with status {status}: {lines[-1] if lines else 'it printed nothing'}"
    folder.fail(reason)


def _stop(running: Sequence[_Running]) -> None:
    """Lets every process save what it has, or else kills it."""
    for job in running:
        job.process.terminate()
    deadline = time.monotonic() + _GRACE_SECONDS
    for job in running:
        try:
            job.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            job.process.kill()
            job.process.wait()
        os.close(job.parent_end)


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
            bar_format="{n_fmt}/{total_fmt} |{bar:20}| {desc}",
            mininterval=_BAR_SECONDS,
            miniters=0,
            dynamic_ncols=True,
            leave=False,
        )

    def start(self, folder: Folder) -> None:
        """A cell's process was started."""
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

    def show(self, running: Sequence[Folder]) -> None:
        """Renews the bar, not too often."""
        if self._bar.disable or time.time() - self._bar.last_print_t < _BAR_SECONDS:
            return
        parts = [f"{self._failed} failed"] if self._failed else []
        if ended := self._ended - self._bar.initial:
            seconds = (time.time() - self._bar.start_t) / ended * (self._total - self._ended)
            parts.append(f"about {format_duration(seconds)} left")
        parts += [f"{folder.cell.label} {_epoch(folder)}" for folder in running]
        self._bar.set_description_str("; ".join(parts), refresh=False)
        self._bar.update(0)

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


# --- One cell, in this process.


def run_cell(
    cell: Cell, workdir: Path, finder: Cell | None = None, started: float | None = None
) -> None:
    """Runs a cell, from the start or from where it was left; nothing where it is done.

    Why it failed stays in the cell's folder, for the table.

    Args:
      cell: what to run.
      workdir: of the study.
      finder: the cell that finds this one's net, where `cell.found_by` names one.
      started: as for `training.run`.

    Raises:
      UserError: also where another process runs this cell, or the finder is not done.
      Exception: whatever the run raises.
    """
    folder = Folder(workdir, cell)
    folder.root.mkdir(parents=True, exist_ok=True)
    with _locked(folder.lock):
        if folder.is_done:
            return
        folder.error.unlink(missing_ok=True)
        keep_in(workdir / "compiled")
        try:
            settings = cell.settings
            if cell.found_by:
                found = Folder(workdir, finder).result() if finder else None
                if found is None:
                    raise UserError(
                        f"the net to train from scratch is what cell {cell.found_by} finds, which"
                        " is not done; run that one first"
                    )
                settings = cell.with_depths(found["depths"])
            run(settings, folder.run, started=started)
        except UserError as error:
            folder.fail(str(error))
            raise
        except Exception as error:
            traceback.print_exc()
            folder.fail(f"{type(error).__name__}: {error}")
            raise


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """The cell is this process's alone; a process that is killed loses the lock with its life."""
    with path.open("w") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"{path.parent} is being run by another process") from None
            except OSError:
                pass  # A file system without locks.
        yield
