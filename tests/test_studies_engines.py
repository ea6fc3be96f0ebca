"""Cells as jobs of another engine: what a job does, and that the scheduler needs no more of it."""

import io
import subprocess
import sys

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
        return Submitted(_Job(1) if len(submitted) > 1 else _Job(0, subprocess.SubprocessError()))

    run_cells(cells, tmp_path, [submit], commands, "A", io.StringIO())
    assert submitted == [commands[cell.name] for cell in cells[:2]]
    reasons = [Folder(tmp_path, cell).why_failed() for cell in cells]
    assert reasons[:2] == ["ended with status 1: it went wrong"] * 2
    assert all(reason.startswith("not run: ") for reason in reasons[2:])
