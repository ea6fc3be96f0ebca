"""Cells as jobs of another engine: what a job does, and that the scheduler needs no more of it."""

import io
import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from autogrow_jax.studies import Row, Section, Study, engines
from autogrow_jax.studies.cells import Folder, expand
from autogrow_jax.studies.engines import CellJob, Submitted
from autogrow_jax.studies.runner import run_cells

pytestmark = pytest.mark.multiprocess


def test_a_job_runs_its_command_into_the_cells_log(tmp_path):
    log = tmp_path / "log.txt"
    code = "print('here'); raise SystemExit(3)"
    job = CellJob([sys.executable, "-c", code], log, tmp_path / "lock")
    assert [job(), job()] == [3, 3]
    assert log.read_text() == "here\nhere\n"


def test_a_job_that_is_asked_to_end_waits_for_what_requeues_it(tmp_path, monkeypatch):
    """SLURM signals the command and the job alike, and the job must not have ended by then."""
    waited = []
    monkeypatch.setattr(engines.time, "sleep", waited.append)
    for code in ("raise SystemExit(143)", "import os; os.kill(os.getpid(), 15)"):
        command = [sys.executable, "-c", code]
        assert CellJob(command, tmp_path / "log.txt", tmp_path / "lock")() in (143, -15)
    assert waited == [60, 60]


class _Job:
    """As submitit's, done at once."""

    def __init__(self, status, error=None):
        self.status, self.error = status, error

    def done(self):
        return True

    def exception(self):
        return self.error

    def result(self):
        return self.status


def test_no_more_jobs_than_slots_and_a_job_that_failed_is_a_failed_cell(tmp_path):
    row = Row(("a",), "configs/digits_plain3.py", {}, scratch={})
    cells = expand(Study("A", [Section("S", ("row",), [row])], seeds=(0, 1)))[0]
    commands = {cell.name: ["run", cell.name] for cell in cells}
    submitted = []

    def submit(folder, command):
        submitted.append(command)
        folder.log.write_text("it went wrong\n")
        return Submitted(_Job(1) if len(submitted) > 1 else _Job(0, RuntimeError("no node")))

    run_cells(cells, tmp_path, [submit], commands, "A", io.StringIO())
    assert submitted == [commands[cell.name] for cell in cells[:2]]
    reasons = [Folder(tmp_path, cell).why_failed() for cell in cells]
    whys = ["no node; it went wrong", "it went wrong"]
    assert reasons[:2] == [f"ended with status 1: {why}" for why in whys]
    assert all(reason.startswith("not run: ") for reason in reasons[2:])


def test_a_job_that_has_to_make_room_waits_for_its_command_and_no_longer(tmp_path, monkeypatch):
    """submitit asks for it in a signal's handler, amid the job's own wait for its command."""
    helpers = SimpleNamespace(DelayedSubmission=lambda job: job)
    monkeypatch.setitem(sys.modules, "submitit", SimpleNamespace(helpers=helpers))
    monkeypatch.setattr(engines, "_GRACE_SECONDS", 5)
    killed, kill = [], subprocess.Popen.kill
    monkeypatch.setattr(subprocess.Popen, "kill", lambda self: (killed.append(self), kill(self)))
    command = [sys.executable, "-c", "import time; print('here', flush=True); time.sleep(60)"]
    job = CellJob(command, tmp_path / "log.txt", tmp_path / "lock")
    again = []

    def make_room(number, frame):
        again.append(job.checkpoint())
        raise InterruptedError  # As submitit, which ends the job.

    def ask():
        while not (job.log.exists() and job.log.read_text()):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGUSR2)

    before = signal.signal(signal.SIGUSR2, make_room)
    try:
        threading.Thread(target=ask).start()
        with pytest.raises(InterruptedError):
            job()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert job.process.returncode == -signal.SIGTERM
    assert killed == []
    assert again == [CellJob(command, job.log, job.lock)]
