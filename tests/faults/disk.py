"""Disks that are full and folders that cannot be written to, amid a run."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from autogrow_jax.saving.checkpoint import CheckpointStore

from .child import fill
from .harness import ROOT, SMALL, Bench, Row, Scenario, Started, finish, newest, told

ON_DISK = Scenario(
    "snapshots, a report, TensorBoard",
    SMALL | {"snapshots.every": 1, "log.report": True, "log.tensorboard": True},
)
FEW_SAVED = Scenario(
    "from scratch, a checkpoint at the end",
    SMALL | {"mode": "scratch", "finetune.epochs": 30, "checkpoint.every": 100},
)
# What is about to be written as the disk is full: part of its path.
MOMENTS = {
    "config.json": (r"/\.config\.json", ON_DISK),
    "dataset.json": (r"/\.dataset\.json", ON_DISK),
    "a line of metrics.jsonl": (r"/metrics\.jsonl", FEW_SAVED),
    "a checkpoint": (r"/epoch_\d+\.orbax-checkpoint-tmp[^/]*$", ON_DISK),
    "the arrays of a checkpoint": (r"/epoch_\d+\.orbax-checkpoint-tmp[^/]*/arrays", ON_DISK),
    "a candidate": (r"/candidates/.", ON_DISK),
    "a snapshot": (r"/snapshots/.", ON_DISK),
    "result.json": (r"/\.result\.json", ON_DISK),
    "the picture": (r"/plots", ON_DISK),
    "predictions": (r"predictions\.npz", ON_DISK),
    "the report": (r"/\.report\.html", ON_DISK),
}
_SEVERAL = {"a checkpoint", "the arrays of a checkpoint", "a candidate", "a snapshot"}
_MEGABYTES = 64


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of its own; PermissionError where none can be mounted."""
    folder.mkdir(parents=True)
    size = f"size={_MEGABYTES}m"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        raise PermissionError(done.stderr.strip())
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def can_mount(folder: Path) -> bool:
    """Whether this user can have a small disk."""
    try:
        with small_disk(folder / "a try"):
            return True
    except (OSError, FileNotFoundError):
        return False


def fill_at(bench: Bench, random: np.random.Generator, moment: str) -> Iterator[Row]:
    """Fills the disk amid a run, makes space again, and starts the run again."""
    name, scenario = MOMENTS[moment]
    scenario = bench.seeded(scenario)
    bench.whole(scenario)
    number = int(random.integers(1, 6)) if moment in _SEVERAL else 1
    left = int(random.integers(0, 100_000)) if moment != "a line of metrics.jsonl" else 0
    with small_disk(bench.folder / f"disk-{random.integers(2**40)}") as disk:
        workdir = disk / "run"
        act = {"folder": str(workdir), "name": name, "number": number}
        act |= {"do": "fill", "disk": str(disk), "left": left}
        statuses, text = Started(scenario, workdir, act).end()
        what = f"disk full but for {left:,} bytes before {moment}" + f" ({number})" * (number > 1)
        then = _then(workdir, statuses, text)
        (disk / "ballast").unlink()
        text = finish(scenario, workdir)
        yield [scenario.name, what, then, _lost(bench, scenario, workdir, text)]


def export_to_full(bench: Bench, random: np.random.Generator) -> Iterator[Row]:
    """Exports a net to a disk that is full, and again once there is space."""
    scenario = bench.seeded(ON_DISK)
    bench.whole(scenario)
    with small_disk(bench.folder / f"disk-{random.integers(2**40)}") as disk:
        workdir = disk / "run"
        shutil.copytree(bench.whole_folder(scenario), workdir)
        fill(disk, int(random.integers(0, 20_000)))
        command = ["export", f"--workdir={workdir}", "--to=npz"]
        status, text = _run(scenario, command)
        left = sorted(p.name for p in workdir.glob("export/*"))
        then = f"status {status}: {told(text, 'error:')}; {left or 'nothing'} in export/"
        assert status == 1 and "Traceback" not in text and not left, f"{then} {text[-2000:]}"
        (disk / "ballast").unlink()
        status, text = _run(scenario, command)
        assert status == 0, text
        yield [scenario.name, "autogrow export to a full disk", then, bench.lost(scenario, workdir)]


def _run(scenario: Scenario, arguments: list[str]) -> tuple[int, str]:
    done = subprocess.run(
        [*scenario.python, "-m", "autogrow_jax", *arguments],
        cwd=ROOT,
        env=scenario.surroundings(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


def _then(workdir: Path, statuses: list[int], text: str) -> str:
    """What a run that could not write said, and where it stands."""
    assert "Traceback" not in text, text[-3000:]
    (status,) = statuses
    saved = newest(workdir)
    if saved:
        store = CheckpointStore(workdir / "checkpoints")
        assert store.read(saved).memory["epoch"] == saved
        store.close()
    said = told(text, "error:", "could not be", "cannot write", "no space").replace(
        str(workdir), "DIR"
    )
    kept = f"checkpoint {saved} is whole" if saved else "no checkpoint yet"
    return f"status {status}: {said}; {kept}"


def _lost(bench: Bench, scenario: Scenario, workdir: Path, text: str) -> str:
    lost = bench.lost(scenario, workdir)
    if lost != "nothing" and "tries again" in text:
        status, text = _run(scenario, ["report", str(workdir)])
        lost = bench.lost(scenario, workdir) if status == 0 else text
    return lost


# --- Folders that cannot be written to.

_LOCKED = {
    "the folder of the run, before it starts": "",
    "checkpoints/, amid the run": "checkpoints",
    "candidates/, amid the run": "candidates",
    "snapshots/, amid the run": "snapshots",
    "the folder of the run, as it ends": "result",
}


def lock_at(bench: Bench, random: np.random.Generator, what: str) -> Iterator[Row]:
    """Takes the right to write to a folder of a run, gives it back, and starts the run again."""
    scenario = bench.seeded(ON_DISK)
    bench.whole(scenario)
    workdir = bench.folder / f"locked-{random.integers(2**40)}"
    workdir.mkdir()
    # Root may write anywhere; without these rights of its own it is a user like others.
    rights = ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner"]
    prefix = rights if os.geteuid() == 0 else []
    careful = replace(scenario, python=(*prefix, sys.executable))
    folder = workdir / _LOCKED[what] if _LOCKED[what] not in ("", "result") else workdir
    if _LOCKED[what]:
        name = {"result": r"/\.result\.json", "checkpoints": r"/epoch_\d+\.orbax[^/]*$"}
        number = 1 if _LOCKED[what] == "result" else int(random.integers(2, 5))
        name = name.get(_LOCKED[what], f"/{_LOCKED[what]}/.")
        act = {"do": "lock", "folder": str(workdir), "name": name, "number": number}
        started = Started(careful, workdir, act | {"disk": str(folder)})
    else:
        workdir.chmod(0o555)
        started = Started(careful, workdir)
    statuses, text = started.end()
    then = _then(workdir, statuses, text)
    assert statuses == [1], f"{statuses} {text[-2000:]}"
    folder.chmod(0o755)
    text = finish(careful, workdir)
    lost = _lost(bench, scenario, workdir, text)
    yield [scenario.name, f"no right to write to {what}", then, lost]


LOCKED = list(_LOCKED)
