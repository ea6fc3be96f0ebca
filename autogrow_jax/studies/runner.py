"""Runs the cells of a study, each in a process of its own, some at a time."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from autogrow_jax.studies.cells import Cell, Folder
from autogrow_jax.studies.devices import Slot
from autogrow_jax.studies.progress import StudyProgress

_POLL_SECONDS = 0.1
# From SIGTERM until SIGKILL, when the study itself is stopped.
_GRACE_SECONDS = 15


@dataclasses.dataclass
class _Running:
    cell: Cell
    slot: Slot
    process: subprocess.Popen
    parent_end: int  # of the pipe that tells the process when this one has died


def run_cells(
    cells: Sequence[Cell],
    workdir: Path,
    slots: Sequence[Slot],
    make_command: Callable[[Cell], list[str]],
    progress: StudyProgress,
) -> None:
    """Runs every cell that is not done; what failed before is tried again.

    A cell that waits for one that fails is not run, and failed too.

    Args:
      cells: of the study; those that wait come after those they wait for.
      workdir: of the study.
      slots: what each process that runs at the same time may use; at least one.
      make_command: the command line that runs a cell.
      progress: is told what happens.

    Raises:
      KeyboardInterrupt: after Ctrl-C or SIGTERM, once all processes have ended.
    """
    pending = [cell for cell in cells if not Folder(workdir, cell).is_done]
    # What failed in an earlier start says nothing about this one.
    for cell in pending:
        Folder(workdir, cell).error.unlink(missing_ok=True)
    by_name = {cell.name: cell for cell in cells}
    free = list(slots)
    running: list[_Running] = []
    progress.begin(num_cells=len(cells), num_done=len(cells) - len(pending))
    try:
        while pending or running:
            for job in [job for job in running if job.process.poll() is not None]:
                running.remove(job)
                free.insert(0, job.slot)
                _end(job, workdir, progress)
            waited_for = {job.cell.name for job in running} | {cell.name for cell in pending}
            for cell in list(pending):
                if cell.found_by in waited_for:
                    continue
                finder = by_name.get(cell.found_by)
                if finder and not Folder(workdir, finder).is_done:
                    pending.remove(cell)
                    folder = Folder(workdir, cell)
                    folder.fail(f"not run: {finder.label}, which finds its net, failed")
                    progress.end(cell, folder)
                elif free:
                    pending.remove(cell)
                    command = make_command(cell)
                    running.append(_start(cell, workdir, free.pop(0), command))
                    progress.start(cell)
            progress.show([(job.cell, Folder(workdir, job.cell)) for job in running], len(pending))
            time.sleep(_POLL_SECONDS)
    finally:
        _stop(running)
        progress.close()


def _start(cell: Cell, workdir: Path, slot: Slot, command: list[str]) -> _Running:
    folder = Folder(workdir, cell)
    folder.root.mkdir(parents=True, exist_ok=True)
    child_end, parent_end = os.pipe()
    try:
        with folder.log.open("ab") as log, slot.cores_for_children():
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
    return _Running(cell, slot, process, parent_end)


def _end(job: _Running, workdir: Path, progress: StudyProgress) -> None:
    os.close(job.parent_end)
    folder, status = Folder(workdir, job.cell), job.process.returncode
    if not folder.is_done and not folder.why_failed():
        folder.fail(_describe_end(status, folder))
    progress.end(job.cell, folder)


def _describe_end(status: int, folder: Folder) -> str:
    if status == -signal.SIGKILL:
        return "killed (SIGKILL): most likely the machine had no memory left"
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-status).name}; its output is in {folder.log}"
    lines = folder.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"ended with status {status}: {lines[-1] if lines else 'it printed nothing'}"


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


def worker_command(arguments: Sequence[str], cell: Cell) -> list[str]:
    """The command line that runs a cell of the study that `arguments` name."""
    # By name: a study file that is edited meanwhile may number its cells otherwise.
    return [sys.executable, "-m", "autogrow_jax.studies", *arguments, f"--cell={cell.name}"]
