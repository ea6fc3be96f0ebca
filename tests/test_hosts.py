"""Several processes train one net: found by a scheduler or by hand, told by the first.

The slow ones start two processes of two CPU devices each and compare them with one process.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from stand_ins import compile_quickly

from autogrow_jax import hosts
from autogrow_jax.errors import UserError
from autogrow_jax.main import make_parser, parse_arguments
from autogrow_jax.steps.state import make_mesh, spread_batch

_CONFIG = """
from autogrow_jax.config import default_config

def get_config():
    config = default_config()
    config.data.fraction, config.data.batch_size = 0.1, 32
    config.growth.interval = config.growth.window = 1
    config.growth.max_epochs, config.growth.max_depths = 2, (2, 2, 1)
    config.finetune.epochs, config.finetune.front = 2, False
    config.log.report = False
    return config
"""


# --- How processes find each other.


@pytest.fixture
def asked(monkeypatch):
    """What JAX would be asked for, in the environment of no scheduler."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "KUBERNETES_")):
            monkeypatch.delenv(name)
    calls = []
    monkeypatch.setattr(hosts.jax.distributed, "initialize", lambda *a, **k: calls.append((a, k)))
    monkeypatch.setattr(hosts.jax.config, "update", lambda *given: None)
    return calls


def _in_slurm(monkeypatch, tasks):
    said = {"JOB_ID": "7", "STEP_NODELIST": "node[1-4]", "PROCID": "1", "LOCALID": "0"}
    for name, value in (said | {"NTASKS": tasks}).items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))


def test_a_process_alone_joins_nobody(asked):
    hosts.join(None, None, None)
    assert asked == [] and hosts.count() == 1 and hosts.is_first()


def test_the_step_of_a_slurm_job_joins_the_others(asked, monkeypatch):
    _in_slurm(monkeypatch, 4)
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    hosts.join(None, None, None)
    ((given, how),) = asked
    assert given == (None, None, None) and how["cluster_detection_method"] is None
    assert how["heartbeat_timeout_seconds"] < 60


def test_a_job_script_that_srun_did_not_start_is_alone_and_so_is_one_task(asked, monkeypatch):
    _in_slurm(monkeypatch, 4)
    hosts.join(None, None, None)
    _in_slurm(monkeypatch, 1)
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    hosts.join(None, None, None)
    assert asked == []


def test_one_process_by_hand_is_alone_whatever_the_scheduler_says(asked, monkeypatch):
    _in_slurm(monkeypatch, 4)
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    hosts.join(None, 1, None)
    assert asked == []


def test_processes_by_hand_need_no_scheduler(asked):
    hosts.join("node1:1234", 2, 1)
    ((given, how),) = asked
    assert given == ("node1:1234", 2, 1) and how["cluster_detection_method"] == "deactivate"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("node1:1234", 2, None), "--process_id is lacking"),
        ((None, 2, 0), "--coordinator is lacking"),
        (("node1:1234", 2, 2), "numbered from 0"),
        (("node1:1234", 0, 0), "numbered from 0"),
        (("node1", 2, 0), "--coordinator is node1; it takes HOST:PORT"),
    ],
)
def test_what_is_not_enough_to_find_the_others_is_refused(asked, given, says):
    with pytest.raises(UserError, match=says):
        hosts.join(*given)
    assert asked == []


def test_what_one_process_alone_can_do_is_refused_to_several(monkeypatch):
    monkeypatch.setattr(hosts, "count", lambda: 2)
    with pytest.raises(UserError, match="run_seeds takes one process, and this is one of 2"):
        hosts.refuse("run_seeds")


@pytest.mark.devices(4)
def test_of_a_batch_each_device_is_read_its_own_rows_alone():
    read = []

    def images(rows):
        read.append(rows.tolist())
        return np.stack([rows, rows], axis=1)

    rows = np.array([7, 1, 5, 3, 0, 2, 6, 4])
    batch = spread_batch(rows, images, make_mesh(4, 8))
    assert sorted(filter(None, read)) == [[0, 2], [5, 3], [6, 4], [7, 1]]
    np.testing.assert_array_equal(batch[:, 1], rows)


# --- Two processes against one.

_started: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def leave_none_behind():
    yield
    while _started:
        process = _started.pop()
        process.kill()
        process.wait()


def _start(workdir: Path, index: int, processes: int, port: int, devices: int, *changes: str):
    config = workdir.parent / "config_of_hosts.py"
    config.write_text(_CONFIG)
    command = [sys.executable, "-m", "autogrow_jax", f"--config={config}", f"--workdir={workdir}"]
    if processes > 1:
        command += [f"--coordinator=localhost:{port}", f"--num_processes={processes}"]
        command += [f"--process_id={index}"]
    command += [f"--config.{change}" for change in changes]
    environment = compile_quickly() | {"JAX_NUM_CPU_DEVICES": str(devices)}
    with open(workdir.parent / f"{workdir.name}.{index}.log", "a") as log:
        _started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    return _started[-1]


def _start_all(workdir: Path, processes: int, devices: int, *changes: str):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    given = processes, port, devices, *changes
    return [_start(workdir, index, *given) for index in range(processes)]


def _run(workdir: Path, processes: int, devices: int, *changes: str) -> list[dict]:
    started = _start_all(workdir, processes, devices, *changes)
    statuses = [process.wait(550) for process in started]
    assert statuses == [0] * processes, _logs(workdir)
    return _lines(workdir)


def _logs(workdir: Path) -> str:
    return "\n".join(p.read_text()[-3000:] for p in workdir.parent.glob(f"{workdir.name}.*.log"))


def _lines(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def _compare(found: list[dict], expected: list[dict], rtol: float = 1e-5):
    assert [line["depths"] for line in found] == [line["depths"] for line in expected]
    for name in ("train_loss", "validation_loss"):
        values = ([line[name] for line in lines] for lines in (found, expected))
        np.testing.assert_allclose(*values, rtol=rtol)


def _wait_for_epochs(workdir: Path, count: int, processes) -> None:
    path, end = workdir / "metrics.jsonl", time.monotonic() + 500
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert time.monotonic() < end and all(p.poll() is None for p in processes), _logs(workdir)
        time.sleep(0.2)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Runs of one process, of four devices and of one."""
    folder = tmp_path_factory.mktemp("alone")
    _run(folder / "four", 1, 4)
    _run(folder / "one", 1, 1, "model.convolution=xla")
    return folder


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("on_device", ["yes", "no"])
def test_two_processes_train_as_one_does_through_growth(alone, tmp_path, on_device):
    two = _run(tmp_path / "two", 2, 2, f"data.on_device={on_device}")
    assert two[-1]["depths"] == [2, 2, 1]
    _compare(two, _lines(alone / "four"))
    _compare(two, _lines(alone / "one"), rtol=1e-3)
    folders = (tmp_path / "two", alone / "four")
    results = [json.loads((folder / "result.json").read_text()) for folder in folders]
    assert results[0]["test_accuracy"] == results[1]["test_accuracy"]


@pytest.mark.slow
@pytest.mark.multiprocess
def test_when_a_process_is_stopped_or_killed_the_other_ends_and_all_go_on_on_any_number(tmp_path):
    whole = _run(tmp_path / "whole", 1, 4, "finetune.epochs=8")
    workdir = tmp_path / "killed"
    processes = _start_all(workdir, 2, 2, "finetune.epochs=8")
    _wait_for_epochs(workdir, 1, processes)
    processes[1].send_signal(signal.SIGTERM)  # It tells the first, which saves; all stop.
    assert [process.wait(120) for process in processes] == [143, 143], _logs(workdir)
    done = len(_lines(workdir))  # A second epoch may have ended before the signal was heard.
    processes = _start_all(workdir, 2, 2, "finetune.epochs=8")
    _wait_for_epochs(workdir, done + 1, processes)
    processes[1].send_signal(signal.SIGKILL)
    processes[1].wait()
    start = time.monotonic()
    assert processes[0].wait(120) not in (0, None)
    seconds = time.monotonic() - start
    assert seconds < 60, seconds
    log = (tmp_path / "killed.0.log").read_text()
    assert "another task died" in log or "lost another of the 2 processes" in log
    _compare(_run(workdir, 1, 1, "finetune.epochs=8", "model.convolution=xla"), whole, rtol=1e-3)


# --- Job files of docs/hosts.md.

_PAGE = Path(__file__).resolve().parents[1] / "docs" / "hosts.md"


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", _PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_the_scripts_of_jobs_are_those_of_a_shell():
    cluster, sky = (yaml.safe_load(block) for block in _blocks("yaml"))
    scripts = [*_blocks("bash"), sky["setup"], sky["run"]]
    assert len(scripts) == 4 and cluster["kind"] == "JobSet"
    for script in scripts:
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_the_options_of_jobs_are_those_of_the_command():
    cluster, sky = (yaml.safe_load(block) for block in _blocks("yaml"))
    template = cluster["spec"]["replicatedJobs"][0]["template"]["spec"]
    (container,) = template["template"]["spec"]["containers"]
    assert template["completions"] == template["parallelism"] == 2
    index = {"$(JOB_COMPLETION_INDEX)": "1"}
    given = [arg.replace(*pair) for arg in container["args"] for pair in index.items()]
    read = parse_arguments(given)
    assert (read.num_processes, read.process_id) == (template["completions"], 1)
    # The name that a JobSet gives its first pod.
    name, job = cluster["metadata"]["name"], cluster["spec"]["replicatedJobs"][0]["name"]
    assert read.coordinator.startswith(f"{name}-{job}-0-0.{name}:")
    known = {action.dest for action in make_parser()._actions}
    for script in (sky["run"], _blocks("bash")[0], _blocks("bash")[1]):
        options = re.findall(r"--(\w+)=", script[script.index("autogrow train") :])
        assert "workdir" in options and set(options) <= known
