"""Runs the cells of a study, each in a process of its own, some at a time; and one, in this."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from autogrow_jax.errors import UserError
from autogrow_jax.studies.cells import Cell, Folder, with_depths
from autogrow_jax.studies.progress import StudyProgress
from autogrow_jax.training import run
from autogrow_jax.training.programs import keep_in

try:
    import fcntl
except ImportError:  # Windows: there nobody notices that two processes run one cell.
    fcntl = None  # type: ignore[assignment]

_POLL_SECONDS = 0.1
# From SIGTERM until SIGKILL, when the study itself is stopped.
_GRACE_SECONDS = 15


@dataclasses.dataclass(frozen=True)
class Slot:
    """What one of several processes may use: variables that name its GPU; its cores, () for all."""

    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    cores: frozenset[int] = frozenset()


@dataclasses.dataclass
class _Running:
    cell: Cell
    folder: Folder
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

    A cell that waits for one that fails has failed too.

    Args:
      cells: of the study; those that wait come after those they wait for.
      workdir: of the study.
      slots: what each process that runs at the same time may use; at least one.
      make_command: the command line that runs a cell.
      progress: is told what happens.

    Raises:
      KeyboardInterrupt: after Ctrl-C or SIGTERM, once all processes have ended.
    """
    folders = {cell.name: Folder(workdir, cell) for cell in cells}
    labels = {cell.name: cell.label for cell in cells}
    pending = [cell for cell in cells if not folders[cell.name].is_done]
    # What failed in an earlier start says nothing about this one.
    for cell in pending:
        folders[cell.name].error.unlink(missing_ok=True)
    free = list(slots)
    running: list[_Running] = []
    progress.begin(num_cells=len(cells), num_done=len(cells) - len(pending))
    try:
        while pending or running:
            for job in [job for job in running if job.process.poll() is not None]:
                running.remove(job)
                free.insert(0, job.slot)
                _end(job)
                progress.end(job.cell, job.folder)
            waited_for = {job.cell.name for job in running} | {cell.name for cell in pending}
            for cell in list(pending):
                folder, finder = folders[cell.name], folders.get(cell.found_by)
                if cell.found_by in waited_for:
                    continue
                if finder and not finder.is_done:
                    pending.remove(cell)
                    folder.fail(f"not run: {labels[cell.found_by]}, which finds its net, failed")
                    progress.end(cell, folder)
                elif free:
                    pending.remove(cell)
                    running.append(_start(cell, folder, free.pop(0), make_command(cell)))
                    progress.start(cell)
            progress.show([(job.cell, job.folder) for job in running], len(pending))
            time.sleep(_POLL_SECONDS)
    finally:
        _stop(running)
        progress.close()


def _start(cell: Cell, folder: Folder, slot: Slot, command: list[str]) -> _Running:
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
    return _Running(cell, folder, slot, process, parent_end)


def _end(job: _Running) -> None:
    """Keeps why a process ended, where it has left neither a result nor a reason."""
    os.close(job.parent_end)
    folder, status = job.folder, job.process.returncode
    if folder.is_done or folder.why_failed():
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
                settings = with_depths(cell, tuple(found["depths"]))
            run(settings, folder.run, started=started)
        except UserError as error:
            folder.fail(str(error))
            raise
        except Exception as error:
            traceback.print_exc()
            folder.fail(f"{type(error).__name__}: {error}")
            raise


def stop_with_parent(file_descriptor: int) -> None:
    """Sends this process SIGTERM once the other end of a pipe closes: its parent has died."""

    def wait() -> None:
        with contextlib.suppress(OSError):
            os.read(file_descriptor, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True, name="waits for the parent's end").start()


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


# --- What each process may use; found without JAX, which would take the devices for this process.


def make_slots(num_workers: int) -> list[Slot]:
    """Divides this machine among processes that run at the same time.

    A single worker has everything. Several share the GPUs by turns, where there are any; on a
    machine without, each has cores of its own: XLA's threads would otherwise wait for each other.

    Raises:
      UserError: for fewer than one worker.
    """
    if num_workers < 1:
        raise UserError(f"--workers is {num_workers}; it takes a whole number of at least 1")
    if num_workers == 1:
        return [Slot()]
    gpus = _find_gpus()
    if gpus:
        environment = {}
        per_gpu = -(-num_workers // len(gpus))
        if per_gpu > 1 and "XLA_PYTHON_CLIENT_MEM_FRACTION" not in os.environ:
            # JAX takes three quarters of a GPU's memory at once unless told otherwise.
            environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 / per_gpu:.2f}"
        turns = [gpus[number % len(gpus)] for number in range(num_workers)]
        return [Slot({"CUDA_VISIBLE_DEVICES": gpu, **environment}) for gpu in turns]
    if not hasattr(os, "sched_getaffinity"):
        return [Slot()] * num_workers
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < num_workers:
        return [Slot(cores=frozenset({cores[n % len(cores)]})) for n in range(num_workers)]
    return [Slot(cores=frozenset(cores[n::num_workers])) for n in range(num_workers)]


def _find_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls each GPU there is for this process."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms and not {"cuda", "gpu"} & set(platforms.split(",")):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip()]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    return [str(number) for number in range(len(lines))]
