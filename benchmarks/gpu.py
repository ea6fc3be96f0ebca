"""All that is to be known about a GPU, unattended, within nine minutes; most important first.

python -m benchmarks.gpu --out DIR [--data-dir DATA] [--minutes 9] [--only PART ...] [--list]
    [--tiny]

1. correctness: a step of every family against the CPU's; the digits run; one that is killed resumes
2. steps: plain3 and basic3 at 20-20-20 and 3-3-3, batches of 128 and 512, bfloat16, TF32 and
   float32, in each form of the loop (`gpu_steps.FORMS`), by turns with PyTorch, eager and compiled
3. roofline: what the card reaches; dispatches of an epoch; host waits in a step, from a trace
4. phase: from 1-1-1 to 20-20-20 on data of MNIST's shape, against PyTorch's rebuilt net
5. cell: Plain3Net on MNIST by the paper's protocol, with the time that is left

Every task is a process with a time limit of its own: one that hangs is killed, noted and passed
over. What is found goes to DIR at once: `results.jsonl`, a line for each figure with device,
versions and date; `summary.md`; `log.txt`; `cell.tar.gz`, which holds the workdir of part 5. The
same command again goes on where the last one stopped, so two or three calls do what one cannot; a
task that was killed or failed is tried once more. A finished cell comes into the poster's table by
`tar xf DIR/cell.tar.gz && python -m benchmarks.poster --keep cell`.

Needed beside this repository: jax with CUDA, flax, optax, orbax-checkpoint, scikit-learn, absl-py,
filelock, tabulate, tqdm, matplotlib and ml_collections; PyTorch to be compared with; the official
files of MNIST in DATA for part 5. What is missing is said and its part passed over. On a machine
without network that has all but ml_collections, carry that as a wheel, which has no binary part:

    pip download --no-deps -d wheels ml_collections      # where there is a network
    pip install --no-index --no-deps wheels/*.whl        # on the machine
"""

import argparse
import contextlib
import datetime
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from autogrow_jax.children import Child, Slot
from autogrow_jax.reporting import replace_file
from benchmarks.gpu_report import read_rows, summarise
from benchmarks.gpu_worker import LATER

_ROOT = Path(__file__).parents[1]
PARTS = ("correctness", "steps", "roofline", "phase", "cell")
_TRIES = 2
# Kept of the time for the last summary; from SIGTERM to SIGKILL, in which a run saves what it has.
_RESERVE_SECONDS, _GRACE_SECONDS = 8, 12
# Two libraries share the card's memory; every start is to be as the first on a machine is.
_ENVIRONMENT = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "PYTHONUNBUFFERED": "1"}
_PACK_SECONDS = 20  # Between two copies of the cell's workdir into DIR.


class Task(NamedTuple):
    """What one process does.

    Attributes:
      name: "PART" or "PART:WHAT".
      limit: seconds after which it is killed.
      least: seconds with less than which it is not begun.
    """

    name: str
    limit: float
    least: float

    @property
    def part(self) -> str:
        return self.name.partition(":")[0]


def list_tasks(tiny: bool) -> list[Task]:
    """All tasks in the order of their importance."""
    if tiny:
        names = ["correctness:steps", "correctness:digits", "steps:plain3-2-4-float32"]
        names += ["roofline:limits", "roofline:waits", "phase:exact", "phase:pytorch", "cell"]
        return [Task(name, 600, 0) for name in names]
    kinds = [("bfloat16", 128), ("tf32", 128), ("bfloat16", 512), ("float32", 128)]
    kinds += [("tf32", 512), ("float32", 512)]
    steps = [
        Task(f"steps:{family}-{depth}-{batch}-{precision}", 130 if depth > 5 else 90, 30)
        for precision, batch in kinds
        for family, depth in (("plain3", 20), ("plain3", 3), ("basic3", 20), ("basic3", 3))
    ]
    # Of every part the first that tells something; behind the cell what shares its time.
    return [
        Task("correctness:steps", 80, 20),
        Task("correctness:digits", 60, 15),
        Task("correctness:resume", 75, 25),
        *steps[:2],
        Task("roofline:limits", 25, 12),
        Task("roofline:waits", 45, 20),
        Task("phase:exact", 110, 50),
        Task("phase:pytorch", 90, 40),
        *steps[2:4],
        Task("phase:shared", 110, 50),
        Task("cell", 3600, 30),
        *steps[4:],
    ]


def choose(tasks: Sequence[Task], rows: Sequence[dict[str, Any]]) -> list[Task]:
    """The tasks that are left after what the rows of earlier calls say.

    One that was stopped because the call was over may be tried again and again, one that was killed
    at its own limit or failed once more.
    """
    ended = [(row["task"], row["state"]) for row in rows if row["part"] == "end"]
    done = {name for name, state in ended if state == "done"}

    def tries(task: Task) -> int:
        return sum(name == task.name and state in ("killed", "failed") for name, state in ended)

    return [task for task in tasks if task.name not in done and tries(task) < _TRIES]


class Pack:
    """One call: the clock, and what is written to DIR."""

    def __init__(self, options: argparse.Namespace, command: str):
        self._options, self.out = options, Path(options.out).absolute()
        self._end = time.monotonic() + 60 * options.minutes - _RESERVE_SECONDS
        self.out.mkdir(parents=True, exist_ok=True)
        self.rows_file, self.log = self.out / "results.jsonl", self.out / "log.txt"
        self._call: dict[str, Any] = {
            "command": command,
            "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "commit": _say("git", "rev-parse", "--short", "HEAD"),
            "card": _say("nvidia-smi", "--query-gpu=name", "--format=csv,noheader"),
            "driver": _say("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
            "flags": os.environ.get("XLA_FLAGS", ""),
        }
        self._write("call", **self._call)

    @property
    def left(self) -> float:
        """Seconds."""
        return self._end - time.monotonic()

    def run(self, task: Task) -> str:
        """Runs a task to its end or its limit; returns "done", "failed", "killed" or "stopped"."""
        limit = min(task.limit, self.left)
        what = [*_worker(self._options), f"--task={task.name}", f"--seconds={limit:.0f}"]
        with tempfile.TemporaryDirectory() as folder:
            workdir = Path(folder, "cell")
            if task.part == "cell":
                _unpack(self.out / "cell.tar.gz", workdir)
                what.append(f"--workdir={workdir}")
            with self.log.open("a") as log:
                print(f"\n== {task.name}, {limit:.0f} s", file=log)
            began = time.monotonic()
            child = Child(what, Slot(_ENVIRONMENT), self.log)
            try:
                state = self._wait(child, began + limit, limit < task.limit, workdir)
            finally:
                _stop(child)
                if workdir.is_dir():
                    _pack(workdir, self.out / "cell.tar.gz")
        seconds = round(time.monotonic() - began, 1)
        self._write("end", task=task.name, state=state, seconds=seconds)
        return state

    def _wait(self, child: Child, deadline: float, call_ends: bool, workdir: Path) -> str:
        packed = time.monotonic()
        while child.poll() is None:
            now = time.monotonic()
            if now > deadline:
                return "stopped" if call_ends else "killed"
            if now - packed > _PACK_SECONDS and workdir.is_dir():
                _pack(workdir, self.out / "cell.tar.gz")
                packed = time.monotonic()
            time.sleep(0.1)
        return {0: "done", LATER: "stopped"}.get(child.returncode, "failed")

    def _write(self, part: str, **row: Any) -> None:
        with self.rows_file.open("a") as file:
            file.write(json.dumps({"part": part, **row}) + "\n")
        self.summarise()

    def summarise(self) -> None:
        """Writes summary.md anew, of all calls so far."""
        replace_file(self.out / "summary.md", summarise(read_rows(self.rows_file)).encode())


def _worker(options: argparse.Namespace) -> list[str]:
    command = [sys.executable, "-m", "benchmarks.gpu_worker", f"--out={options.out}"]
    command += [f"--data-dir={options.data_dir}"] if options.data_dir else []
    return command + (["--tiny"] if options.tiny else [])


def _say(*command: str) -> str:
    """What a program prints, "" where there is none."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, cwd=_ROOT)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _stop(child: Child) -> None:
    """Ends a process and all that it started."""
    if child.poll() is None:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE_SECONDS)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)  # It leads its session.
    child.wait()
    child.close()


def _pack(workdir: Path, archive: Path) -> None:
    """Copies a workdir into one file, as a machine that is lent may give back few."""
    buffer = io.BytesIO()
    try:
        with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
            tar.add(workdir, arcname="cell")
    except OSError:  # A checkpoint was deleted meanwhile; the next copy is soon.
        return
    replace_file(archive, buffer.getvalue())


def _unpack(archive: Path, workdir: Path) -> None:
    if not archive.exists():
        return
    with tarfile.open(archive) as tar:
        tar.extractall(workdir.parent, filter="data")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the pack; returns the number of tasks that failed or were killed in this call."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for what is found")
    parser.add_argument("--data-dir", default="", help="of MNIST's official files")
    parser.add_argument("--minutes", type=float, default=9, help="that the call may take")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--list", action="store_true", help="name what is left and run nothing")
    parser.add_argument("--tiny", action="store_true", help="only see that it runs, on a CPU too")
    options = parser.parse_args(arguments)
    options.out = str(Path(options.out).absolute())
    options.data_dir = options.data_dir and str(Path(options.data_dir).absolute())
    given = sys.argv[1:] if arguments is None else arguments
    tasks = [task for task in list_tasks(options.tiny) if task.part in options.only]
    if options.list:
        for task in choose(tasks, read_rows(Path(options.out, "results.jsonl"))):
            print(task.name)
        return 0
    # So that what was begun is stopped, and noted, on every way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    pack = Pack(options, shlex.join(["python", "-m", "benchmarks.gpu", *given]))
    bad = run_tasks(pack, choose(tasks, read_rows(pack.rows_file)))
    print(f"\n{(pack.out / 'summary.md').read_text()}")
    return bad


def run_tasks(pack: Pack, tasks: Sequence[Task]) -> int:
    """Runs tasks while there is time; returns how many failed or were killed.

    What stands behind the cell shares with it by halves what those before it leave: the cell takes
    all the time there is, and would leave the others none in any call.
    """
    place = next((n for n, task in enumerate(tasks) if task.part == "cell"), len(tasks))
    bad = _run_all(pack, tasks[:place], 0)
    bad += _run_all(pack, tasks[place + 1 :], pack.left / 2)
    return bad + _run_all(pack, tasks[place : place + 1], 0)


def _run_all(pack: Pack, tasks: Sequence[Task], spare: float) -> int:
    """Runs those for which there is time, `spare` seconds left alone; returns how many failed."""
    bad = 0
    for task in tasks:
        if pack.left - spare < max(task.least, 1):
            continue
        state = pack.run(task)
        bad += state in ("failed", "killed")
        print(f"{state:<8} {task.name} ({pack.left:.0f} s left)", flush=True)
    return bad


if __name__ == "__main__":
    sys.exit(main())
