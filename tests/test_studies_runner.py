"""Running cells: what is missing, one failure for one cell, stopping and going on."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import pytest
from stand_ins import write_finished

from autogrow_jax.children import Slot, make_slots
from autogrow_jax.errors import UserError
from autogrow_jax.reporting.workdir import hold
from autogrow_jax.studies import Row, Section, Study
from autogrow_jax.studies.cells import Folder, expand
from autogrow_jax.studies.engines import as_processes
from autogrow_jax.studies.runner import Progress, run_cell, run_cells

pytestmark = pytest.mark.multiprocess

# Stands for a run: what it prints, the result it writes, how it ends.
_WORK = """
import json, os, pathlib, sys, time
run, what = pathlib.Path(sys.argv[1]), sys.argv[2]
run.mkdir(parents=True, exist_ok=True)
(run / "started").open("a").write(f"{os.getpid()} {sorted(os.sched_getaffinity(0))}\\n")
if what == "fail":
    sys.exit("it went wrong")
if what == "killed":
    os.kill(os.getpid(), 9)
if what == "slow":
    time.sleep(60)
result = {"depths": [1], "test_accuracy": 50.0, "epochs": 1, "seconds": {"total": 1.0}}
(run / "result.json").write_text(json.dumps(result))
"""


def _cells(num_rows, scratch=None):
    rows = [
        Row((name,), "configs/digits_plain3.py", {"growth.interval": n + 1}, scratch=scratch)
        for n, name in enumerate("abcdef"[:num_rows])
    ]
    return expand(Study("A", [Section("S", ("row",), rows)], seeds=(0,)))[0]


def _run(cells, workdir, what=None, workers=1):
    """Runs cells with `_WORK` for `{index: what it does}`; returns what was told."""
    told = io.StringIO()
    what = what or {}

    commands = {
        cell.name: [sys.executable, "-c", _WORK, str(Folder(workdir, cell).run), what.get(i, "")]
        for i, cell in enumerate(cells)
    }
    run_cells(cells, workdir, as_processes(workers), commands, "A", told)
    return told.getvalue()


def _starts(cell, workdir):
    path = Folder(workdir, cell).run / "started"
    return path.read_text().splitlines() if path.exists() else []


def test_only_what_is_missing_is_run(tmp_path):
    cells = _cells(3)
    _run(cells[1:2], tmp_path)
    told = _run(cells, tmp_path)
    assert [len(_starts(cell, tmp_path)) for cell in cells] == [1, 1, 1]
    assert "3 cells, 1 done before" in told and "[3/3] done    c, seed 0: 1, test 50.00 %" in told
    _run(cells, tmp_path)
    assert [len(_starts(cell, tmp_path)) for cell in cells] == [1, 1, 1]


def test_one_failure_fails_one_cell_and_those_that_wait_for_it(tmp_path):
    cells = _cells(3, scratch={})
    told = _run(cells, tmp_path, {1: "fail", 2: "killed"}, workers=2)
    folders = [Folder(tmp_path, cell) for cell in cells]
    assert [folder.is_done for folder in folders] == [
        True,
        False,
        False,
        True,
        False,
        False,
    ]
    reasons = [folder.why_failed() for folder in folders]
    assert reasons[1] == "ended with status 1: it went wrong"
    assert "no memory" in reasons[2]
    assert reasons[4] == "not run: b, seed 0, which finds its net, failed"
    assert told.count("FAILED") == 4
    # The next start tries again what failed, and nothing else.
    _run(cells, tmp_path)
    assert all(Folder(tmp_path, cell).is_done for cell in cells)
    assert [len(_starts(cell, tmp_path)) for cell in cells] == [1, 2, 2, 1, 1, 1]


def test_a_baseline_waits_for_its_net_and_workers_have_cores_of_their_own(tmp_path):
    cells = _cells(2, scratch={})
    _run(cells, tmp_path, workers=2)
    times = [(Folder(tmp_path, cell).run / "result.json").stat().st_mtime for cell in cells]
    assert times[2] > times[0] and times[3] > times[1]
    cores = {_starts(cell, tmp_path)[0].split(" ", 1)[1] for cell in cells}
    everything = str(sorted(os.sched_getaffinity(0)))
    assert everything not in cores or len(os.sched_getaffinity(0)) == 1


def test_processes_end_with_the_study(tmp_path):
    cells = _cells(1)
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_studies_runner import _cells, _run
from pathlib import Path
_run(_cells(1), Path({str(tmp_path)!r}), {{0: "slow"}})
"""
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not _starts(cells[0], tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    worker = int(_starts(cells[0], tmp_path)[0].split()[0])
    process.send_signal(signal.SIGINT)
    assert process.wait(30) != 0
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
    assert not Folder(tmp_path, cells[0]).why_failed(), "stopped is not failed"


def test_the_slots_of_gpus_and_cores(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    names = [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in make_slots(3)]
    assert names == ["3", "5", "3"]
    assert make_slots(1) == [Slot()]
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION" not in make_slots(2)[0].environment
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,-1,5")  # CUDA reads no further than -1.
    assert {slot.environment["CUDA_VISIBLE_DEVICES"] for slot in make_slots(2)} == {"3"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 4}, raising=False)
    cores = [slot.cores for slot in make_slots(2)]
    assert cores == [{0, 2, 4}, {1, 3}]
    assert len(make_slots(7)) == 7
    with pytest.raises(UserError, match="--workers is 0"):
        make_slots(0)


def _digits(**overrides):
    small = {
        "data.fraction": 0.1,
        "growth.interval": 1,
        "growth.window": 1,
        "growth.max_epochs": 1,
        "growth.capacity": 2,
        "finetune.epochs": 1,
        "finetune.front": False,
    }
    row = Row(("a",), "configs/digits_plain3.py", small | overrides, scratch={})
    return expand(Study("A", [Section("S", ("row",), [row])], seeds=(0,)))[0]


@pytest.fixture(autouse=True)
def _session_cache(monkeypatch):
    """A cell's own compilation cache would stay that of this process."""
    monkeypatch.setattr("autogrow_jax.studies.runner.keep_in", lambda root: root)


@pytest.mark.slow
def test_a_cell_and_the_baseline_of_its_net(tmp_path):
    found, scratch = _digits()
    with pytest.raises(UserError, match="which is not done; run that one first"):
        run_cell(scratch, tmp_path)
    run_cell(found, tmp_path)
    run_cell(scratch, tmp_path)
    results = [Folder(tmp_path, cell).result() for cell in (found, scratch)]
    assert results[0]["depths"] == results[1]["depths"] == [2, 1, 1]
    assert (results[0]["mode"], results[1]["mode"]) == ("grow", "scratch")
    # Done already: nothing is run, whatever would become of it.
    shutil.rmtree(Folder(tmp_path, found).run / "checkpoints")
    run_cell(found, tmp_path)


def test_a_cell_that_fails_keeps_the_reason_until_it_is_done(tmp_path):
    (bad, _) = _digits(**{"data.name": "npz:nowhere.npz"})
    with pytest.raises(UserError):
        run_cell(bad, tmp_path)
    folder = Folder(tmp_path, bad)
    assert "nowhere.npz" in folder.why_failed() and not Folder(tmp_path, bad).is_done


def test_a_cell_is_run_by_one_process_at_a_time(tmp_path):
    (cell, _) = _digits()
    folder = Folder(tmp_path, cell)
    with hold(folder.lock), pytest.raises(UserError, match="is in use by process"):
        run_cell(cell, tmp_path)
    assert not folder.why_failed()


def test_a_worker_waits_for_another_study_that_runs_its_cell(tmp_path):
    (cell, _) = _digits(**{"data.name": "npz:nowhere.npz"})  # It would fail if it were run.
    folder = Folder(tmp_path, cell)
    with ThreadPoolExecutor(1) as pool:
        with hold(folder.lock):
            waiting = pool.submit(run_cell, cell, tmp_path, waits=True)
            time.sleep(0.2)
            assert not waiting.done()
            write_finished(folder.run)
        waiting.result(30)
    assert folder.is_done


def test_a_command_that_ends_before_it_has_a_log_is_a_failed_cell(tmp_path):
    (cell,) = _cells(1)
    ended = Mock(poll=lambda: 1, returncode=1, why="")
    run_cells([cell], tmp_path, [lambda *_: ended], {cell.name: []}, "A", io.StringIO())
    assert Folder(tmp_path, cell).why_failed() == "ended with status 1: it printed nothing"


def test_a_damaged_result_is_told_by_the_progress(tmp_path):
    (cell,) = _cells(1)
    folder = Folder(tmp_path, cell)
    folder.run.mkdir(parents=True)
    (folder.run / "result.json").write_text(json.dumps([1]))
    told = io.StringIO()
    Progress("A", 1, 0, told).end(folder)
    assert "FAILED  a, seed 0: " in told.getvalue() and "is damaged" in told.getvalue()
