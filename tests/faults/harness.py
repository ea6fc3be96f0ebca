"""A small run that can be disturbed, and whether its end is bit for bit the undisturbed one."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from absl import logging

from autogrow_jax.saving.checkpoint import CheckpointStore

logging.set_verbosity(logging.FATAL)
ROOT = Path(__file__).resolve().parents[2]
# What differs from one start to the next, or says when and for how long.
_OF_TIME = {"seconds", "elapsed", "versions", "devices", "milliseconds"}
# A run of digits with growth past a capacity, a front and its fine-tuning; seconds on a CPU. The
# latency decides nothing in it, so that the undisturbed one can be told from no other.
SMALL = {
    "data.name": "digits", "data.fraction": 0.2, "data.batch_size": 32, "num_devices": 1,
    "growth.interval": 1, "growth.max_epochs": 6, "growth.capacity": 2, "finetune.epochs": 4,
    "optimizer.learning_rate": 0.03, "optimizer.ema": 0.9, "log.progress": False,
    "log.tensorboard": False, "log.report": False, "log.plot_every": 0,
}  # fmt: skip


def one_process(workdir: Path, config: Mapping[str, object]) -> list[list[str]]:
    """The commands of a run: one. A run of several processes gives several, started together."""
    flags = [f"--config.{key}={value}" for key, value in config.items()]
    return [[sys.executable, "-m", "autogrow_jax", f"--workdir={workdir}", *flags]]


@dataclass(frozen=True)
class Scenario:
    """A run to disturb."""

    name: str
    config: Mapping[str, object] = field(default_factory=lambda: SMALL)
    commands: Callable[[Path, Mapping[str, object]], list[list[str]]] = one_process


SCENARIOS = [
    Scenario("every epoch saved"),
    Scenario("every third epoch saved", SMALL | {"checkpoint.every": 3}),
    Scenario("lookahead", SMALL | {"growth.policy": "lookahead", "growth.interval": 2}),
]


class Started:
    """The processes of one start of a run."""

    def __init__(self, scenario: Scenario, workdir: Path):
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115 (`end` closes it)
        self.processes = [
            subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=self._output, stderr=subprocess.STDOUT
            )
            for command in scenario.commands(workdir, scenario.config)
        ]

    @property
    def runs(self) -> bool:
        return all(process.poll() is None for process in self.processes)

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to one of the processes, the last, and ends what waits for it."""
        self.processes[-1].send_signal(number)
        if number == signal.SIGKILL:
            for process in self.processes:
                process.kill()

    def end(self, timeout: float = 600) -> tuple[int, str]:
        """The exit status once all have ended, and what they printed."""
        deadline = time.monotonic() + timeout
        for process in self.processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                for each in self.processes:
                    each.kill()
                raise
        self._output.seek(0)
        text = self._output.read()
        self._output.close()
        return max((process.returncode for process in self.processes), key=abs), text


def finish(scenario: Scenario, workdir: Path) -> str:
    """Lets a run go to its end; returns what it printed."""
    status, text = Started(scenario, workdir).end()
    assert status == 0, text
    return text


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


def the_end(workdir: Path) -> dict[str, object]:
    """What a run has left, less times: metrics, result, and the bytes of each array."""
    with closing(CheckpointStore(workdir / "checkpoints")) as store:
        latest = store.latest()
        saved = store.read(latest)
    return {
        "metrics": [_timeless(line) for line in lines_of(workdir)],
        "result": _timeless(json.loads((workdir / "result.json").read_text())),
        "epoch": latest,
        "remembered": _timeless(saved.memory),
        **{name: (a.dtype.str, a.shape, a.tobytes()) for name, a in saved.arrays.items()},
    }


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


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def choose(random: np.random.Generator, names: Sequence[str]) -> str:
    return names[int(random.integers(len(names)))]
