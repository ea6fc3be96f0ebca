"""What starts the commands of cells: processes of this machine, or jobs of submitit."""

import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from filelock import FileLock

from autogrow_jax.children import Child, Slot, make_slots
from autogrow_jax.errors import UserError
from autogrow_jax.studies.cells import Folder

ENGINES = ("local", "slurm")
# From SIGTERM until SIGKILL, when a job has to make room.
_GRACE_SECONDS = 60
# How a command ends that was asked to: by a status of its own, or by the signal.
_TERMINATED = 128 + signal.SIGTERM, -signal.SIGTERM


@dataclasses.dataclass
class CellJob:
    """Runs the command of a cell, again where its job was preempted; returns the exit status."""

    command: list[str]
    log: Path
    lock: Path  # Of the cell: a study that was killed may have left a job that still runs it.

    def __call__(self) -> int:
        with FileLock(self.lock):
            pass
        with self.log.open("ab") as file:
            self.process = subprocess.Popen(self.command, stdout=file, stderr=subprocess.STDOUT)
            # Not by `wait`, whose lock `checkpoint`, in the handler of a signal, would wait for.
            os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
            status = self.process.wait()
        # SLURM ends all of a job's processes when it has to make room, and tells submitit then.
        if status in _TERMINATED:
            time.sleep(_GRACE_SECONDS)
        return status

    def checkpoint(self) -> Any:
        """Lets the run stop at its last checkpoint, and says what the requeued job does."""
        import submitit  # An extra.

        self.process.terminate()
        try:
            self.process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
        return submitit.helpers.DelayedSubmission(CellJob(self.command, self.log, self.lock))


class Submitted:
    """A job, with what `runner.run_cells` asks of a process."""

    returncode: int = 0
    why: str = ""  # The job failed, where it did not start the command or could not end it.

    def __init__(self, job: Any):
        self._job = job

    def poll(self) -> int | None:
        if not self._job.done():
            return None
        if failed := self._job.exception():
            self.returncode, self.why = 1, str(failed).strip() or type(failed).__name__
        else:
            self.returncode = self._job.result()
        return self.returncode

    def terminate(self) -> None:
        self._job.cancel()

    kill = terminate

    def wait(self, timeout: float | None = None) -> None:
        """Waits for a job that was cancelled, which has nothing to save that is not saved."""
        time.sleep(min(timeout or 0, 1))

    def close(self) -> None:
        pass


# What `runner.run_cells` starts the command of a cell by, one at a time.
Start: TypeAlias = Callable[[Folder, list[str]], Child | Submitted]


def as_processes(num_workers: int) -> list[Start]:
    """So many processes at a time, which share this machine; see `make_slots`."""

    def start(slot: Slot, folder: Folder, command: list[str]) -> Child:
        return Child(command, slot, folder.log)

    return [partial(start, slot) for slot in make_slots(num_workers)]


def as_jobs(engine: str, workdir: Path, parameters: dict[str, Any], most: int) -> list[Start]:
    """Jobs of an engine of `ENGINES`, so many that wait or run at the same time.

    `parameters` are submitit's, such as {"timeout_min": 600, "slurm_partition": "gpu"}.

    Raises:
      UserError: submitit is not installed, or there is no SLURM here.
    """
    try:
        import submitit  # An extra.
    except ImportError:
        raise UserError(
            f"--engine={engine} needs submitit: pip install 'autogrow_jax[submitit]'; --list and"
            " --cell serve any other scheduler"
        ) from None
    try:
        executor = submitit.AutoExecutor(folder=workdir / "jobs" / "%j", cluster=engine)
        defaults = {"name": workdir.name, "timeout_min": 24 * 60}
        executor.update_parameters(**defaults | parameters)
    except (RuntimeError, NameError, ValueError) as error:
        raise UserError(f"--engine={engine} cannot be used here: {error}") from None

    def start(folder: Folder, command: list[str]) -> Submitted:
        return Submitted(executor.submit(CellJob(command, folder.log, folder.lock)))

    return [start] * most
