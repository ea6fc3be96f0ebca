"""Runs that can be disturbed, and whether their end is bit for bit the undisturbed one."""

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from autogrow_jax.reporting.workdir import read_npz
from autogrow_jax.saving.checkpoint import CheckpointStore

logging.set_verbosity(logging.FATAL)
ROOT = Path(__file__).resolve().parents[2]
# What differs from one start to the next, or says when and for how long.
_OF_TIME = {"metrics", "seconds", "elapsed", "versions", "devices", "milliseconds"}
# A run of digits with growth past a capacity, a front and its fine-tuning; seconds on a CPU. The
# latency decides nothing in it, so that the undisturbed one can be told from no other.
SMALL = {
    "data.name": "digits", "data.fraction": 0.2, "data.batch_size": 32, "num_devices": 1,
    "growth.interval": 1, "growth.max_epochs": 4, "growth.capacity": 2, "finetune.epochs": 3,
    "optimizer.learning_rate": 0.03, "optimizer.ema": 0.9, "log.progress": False,
    "log.tensorboard": False, "log.report": False, "log.plot_every": 0,
}  # fmt: skip
# What a row of a table says.
HEAD = ["", "run", "what was done", "what happened then", "lost"]
Row = list[str]  # Without its number.


@dataclass(frozen=True)
class Scenario:
    """A run to disturb: its config, and the processes, of so many CPU devices each, that train."""

    name: str
    config: Mapping[str, object] = field(default_factory=lambda: SMALL)
    processes: int = 1
    devices: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)
    python: tuple[str, ...] = (sys.executable,)
    file: str = ""  # Of the config.

    def arguments(self, workdir: Path) -> list[str]:
        """What follows `python -m autogrow_jax`."""
        flags = [f"--config.{key}={value}" for key, value in self.config.items()]
        return [*([f"--config={self.file}"] if self.file else []), f"--workdir={workdir}", *flags]

    def commands(self, workdir: Path) -> list[list[str]]:
        """What follows it in each of the processes, which are started together."""
        given = self.arguments(workdir)
        if self.processes == 1:
            return [given]
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        several = [f"--coordinator=localhost:{port}", f"--num_processes={self.processes}"]
        return [[*given, *several, f"--process_id={i}"] for i in range(self.processes)]

    def surroundings(self) -> dict[str, str]:
        """The environment of its processes."""
        return {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "JAX_NUM_CPU_DEVICES": str(self.devices),
            **self.environment,
        }


def compile_cheaply(folder: Path) -> None:
    """Has all processes that are started from here keep compiled programs there, made quickly."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    older = tuple(map(int, metadata.version("jaxlib").split(".")[:2])) < (0, 11)
    emitters = " --xla_cpu_use_fusion_emitters=false" if older else ""
    os.environ.setdefault("XLA_FLAGS", f"--xla_backend_optimization_level=1{emitters}")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


_running: set[subprocess.Popen[str]] = set()


def leave_nothing(folder: Path) -> None:
    """Ends all that runs and takes away a folder and the disks mounted in it."""
    for process in list(_running):
        process.kill()
    for line in Path("/proc/mounts").read_text().splitlines():
        # Spaces are spelt out there, so that of our folders nothing but the start is compared.
        if (place := line.split()[1]).startswith(f"{folder}/"):
            subprocess.run(["umount", "-l", place], check=False)
    shutil.rmtree(folder, ignore_errors=True)


class Started:
    """The processes of one start of a run.

    `act` has them do something at one of their operations on files, see `child`.
    """

    def __init__(self, scenario: Scenario, workdir: Path, act: Mapping[str, Any] | None = None):
        module = ["-m", "tests.faults.child", json.dumps(act)] if act else ["-m", "autogrow_jax"]
        self.processes, self._outputs = [], []
        for command in scenario.commands(workdir):
            output = tempfile.TemporaryFile("w+")  # noqa: SIM115 (`end` closes it)
            process = subprocess.Popen(
                [*scenario.python, *module, *command],
                cwd=ROOT,
                env=scenario.surroundings(),
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            self._outputs.append(output)
            self.processes.append(process)
            _running.add(process)

    @property
    def runs(self) -> bool:
        return all(process.poll() is None for process in self.processes)

    def wait_until(self, is_now: Callable[[], bool], patience: float = 300) -> bool:
        """Waits for a moment of the run; False where a process ended first."""
        deadline = time.monotonic() + patience
        while self.runs:
            if is_now():
                return True
            assert time.monotonic() < deadline, "the moment never came"
            time.sleep(0.002)
        return False

    def send(self, number: signal.Signals, index: int | None = None) -> None:
        """Sends a signal to one of the processes, or to all."""
        for process in self.processes if index is None else [self.processes[index]]:
            process.send_signal(number)

    def end(self, timeout: float = 300) -> tuple[list[int], str]:
        """The exit statuses once all have ended, and what they printed; kills what hangs."""
        deadline = time.monotonic() + timeout
        try:
            for process in self.processes:
                process.wait(max(0.1, deadline - time.monotonic()))
        finally:
            for process in self.processes:
                process.kill()
                process.wait()
                _running.discard(process)
            texts = []
            for output in self._outputs:
                output.seek(0)
                texts.append(output.read())
                output.close()
        return [process.returncode for process in self.processes], "\n".join(texts)


def finish(scenario: Scenario, workdir: Path) -> str:
    """Lets a run go to its end; returns what it printed."""
    statuses, text = Started(scenario, workdir).end(600)
    assert not any(statuses), f"{statuses}: {text[-2000:]}"
    return text


class Bench:
    """A folder for runs, and the ends of those that nobody disturbed."""

    def __init__(self, folder: Path, seed: int = 0):
        self.folder, self.seed = folder, seed
        self._ends: dict[str, dict[str, Any]] = {}
        self._locks: dict[str, threading.Lock] = defaultdict(threading.Lock)
        self.lock = threading.Lock()  # Of whoever makes something that others use too.

    def seeded(self, scenario: Scenario) -> Scenario:
        """The run of this harness's seed."""
        return replace(scenario, config={**scenario.config, "seed": self.seed})

    def whole(self, scenario: Scenario) -> dict[str, Any]:
        """The end of a run that was left alone; its workdir is `whole_folder`."""
        with self._locks[scenario.name]:
            if scenario.name not in self._ends:
                finish(scenario, self.whole_folder(scenario))
                self._ends[scenario.name] = the_end(self.whole_folder(scenario))
        return self._ends[scenario.name]

    def whole_folder(self, scenario: Scenario) -> Path:
        return self.folder / f"whole {scenario.name}"

    def lost(self, scenario: Scenario, workdir: Path) -> str:
        """What differs at the end from the run that was left alone, or "nothing"."""
        whole, found = self.whole(scenario), the_end(workdir)
        # One that was to be deleted may be left.
        gone = [f"checkpoint {e}" for e in whole["checkpoints"] if e not in found["checkpoints"]]
        names = (name for name in differences(whole, found) if name != "checkpoints")
        return ", ".join([*gone, *names]) or "nothing"


def lines_of(workdir: Path) -> list[dict]:
    """The whole lines of metrics.jsonl so far."""
    try:
        text = (workdir / "metrics.jsonl").read_text()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def newest(workdir: Path) -> int:
    """The epochs of the newest checkpoint that is whole by its name; 0 where there is none."""
    found = [p.name.removeprefix("epoch_") for p in (workdir / "checkpoints").glob("epoch_*")]
    return max((int(name) for name in found if name.isdigit()), default=0)


def is_saving(workdir: Path) -> bool:
    """Whether a checkpoint is being written."""
    return any((workdir / "checkpoints").glob("*orbax-checkpoint-tmp*"))


def the_end(workdir: Path) -> dict[str, Any]:
    """What a run has left, less times: names and content of files, and the bytes of each array."""
    with closing(CheckpointStore(workdir / "checkpoints")) as store:
        latest, kept = store.latest(), store.all_epochs()
        saved = store.read(latest)
    files = {
        str(path.relative_to(workdir)): _content(path)
        for path in workdir.rglob("*")
        if path.is_file()
        and path.relative_to(workdir).parts[0] not in ("checkpoints", "tensorboard", "export")
        and not path.name.startswith(".lock")
    }
    return {
        "checkpoints": kept,
        "what the checkpoint remembers": _timeless(saved.memory),
        **{f"array {n}": (a.dtype.str, a.shape, a.tobytes()) for n, a in saved.arrays.items()},
        **files,
    }


def _content(path: Path) -> object:
    if path.name == "metrics.jsonl":
        return [_timeless(json.loads(line)) for line in path.read_text().splitlines()]
    if path.suffix == ".json":
        return _timeless(json.loads(path.read_text()))
    if path.suffix == ".npz":
        arrays = read_npz(path)
        memory = json.loads(arrays.pop("memory").tobytes()) if "memory" in arrays else {}
        found = {name: (a.dtype.str, a.shape, a.tobytes()) for name, a in arrays.items()}
        return found | {"memory": _timeless(memory)}
    if path.suffix == ".npy":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return "a file"  # Pictures and pages show times.


def _timeless(value):
    if isinstance(value, Mapping):
        # Compilations are counted over all starts.
        return {
            key: _timeless(entry)
            for key, entry in value.items()
            if key not in _OF_TIME and not key.startswith("compilations")
        }
    return [_timeless(entry) for entry in value] if isinstance(value, list) else value


def differences(one: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    """The names of what differs between two ends."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def told(text: str, *words: str) -> str:
    """The last line of an output that has one of the words, for a cell of a table."""
    lines = [line for line in text.splitlines() if any(word in line for word in words)]
    line = lines[-1].strip() if lines else "not a word"
    return line if len(line) <= 300 else f"{line[:300]}..."


def table(rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown of `HEAD`."""
    numbered = ([number, *row] for number, row in enumerate(rows, start=1))
    lines = [HEAD, ["---"] * len(HEAD), *numbered]
    cells = ([str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in lines)
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)


def choose(random: np.random.Generator, names: Sequence[Any]) -> Any:
    return names[int(random.integers(len(names)))]
