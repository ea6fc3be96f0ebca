"""A loss that diverges, a worker that dies, a clock that jumps."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from .harness import (
    SMALL,
    Bench,
    Row,
    Scenario,
    Started,
    choose,
    finish,
    lines_of,
    newest,
    told,
)

_HERE = Path(__file__).parent

# --- A loss that is no longer finite.


def diverge(bench: Bench, random: np.random.Generator, policy: str) -> Iterator[Row]:
    """Has the loss diverge at a random epoch of fine-tuning: "stop", or "restart" after a kill."""
    leap, times = int(random.integers(1, 3)), choose(random, [4, 8, 16])
    leaps = {"TESTS_FAULTS_LEAP": str(leap), "TESTS_FAULTS_TIMES": str(times)}
    changes = {"on_divergence": "restart", "seed": bench.seed, "optimizer.learning_rate": 0.02}
    scenario = Scenario(
        f"rate leaps to {times} times in epoch {leap} of fine-tuning",
        SMALL | changes,
        environment=leaps,
        file=str(_HERE / "diverging.py"),
    )
    workdir = bench.folder / f"diverged-{random.integers(2**40)}"
    bench.whole(scenario)
    if policy == "stop":
        stopping = replace(scenario, config={**scenario.config, "on_divergence": "stop"})
        statuses, text = Started(stopping, workdir).end()
        said, saved = told(text, "error:"), newest(workdir)
        assert statuses == [1] and "Traceback" not in text, f"{statuses} {text[-2000:]}"
        for word in ("epoch", "step", "depths", "learning rate"):
            assert word in said, text
        then = f"{said}; checkpoint {saved}; gone on from with on_divergence=restart"
        what = "on_divergence=stop"
    else:
        act = {"do": "kill", "folder": str(workdir), "number": int(random.integers(60, 230))}
        statuses, text = Started(scenario, workdir, act).end()
        what = f"on_divergence=restart, killed before operation {act['number']} on its files"
        then = ""
    text = finish(scenario, workdir)
    if policy != "stop":
        result = json.loads((workdir / "result.json").read_text())
        assert result["divergences"], "it did not diverge"
        then = f"{len(result['divergences'])} divergences; {told(text, 'back to the last')}"
    yield [scenario.name, what, then.replace(str(workdir), "DIR"), bench.lost(scenario, workdir)]


# --- A worker that decodes images.


def has_grain() -> bool:
    return importlib.util.find_spec("grain") is not None


def _photographs(folder: Path, random: np.random.Generator) -> None:
    """Writes a tree of images: two classes, 48 of each."""
    if folder.exists():
        return
    draft = folder.with_name("being drawn")
    for label in ("dark", "light"):
        (draft / label).mkdir(parents=True)
        for number in range(48):
            pixels = random.integers(0, 128, (24, 24, 3)) + 100 * (label == "light")
            Image.fromarray(pixels.astype(np.uint8)).save(draft / label / f"{number}.png")
    draft.rename(folder)


def kill_worker(bench: Bench, random: np.random.Generator) -> Iterator[Row]:
    """Kills one of the processes that decode the images of a stream."""
    folder = bench.folder / "photographs"
    with bench.lock:
        _photographs(folder, np.random.default_rng(bench.seed))
    changes = {
        "data.name": f"folder:{folder}", "data.fraction": 1.0, "data.stream": "yes",
        "data.image_size": 16, "data.batch_size": 16, "data.workers": 2, "seed": bench.seed,
        "finetune.front": False,
    }  # fmt: skip
    scenario = Scenario("a stream, two workers", SMALL | changes)
    bench.whole(scenario)
    workdir = bench.folder / f"stream-{random.integers(2**40)}"
    after = int(random.integers(0, 5))
    started = Started(scenario, workdir)
    (main,) = started.processes
    killed, signals = "none", choose(random, [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])

    def strike() -> bool:
        nonlocal killed
        workers = _children(main.pid)
        if len(lines_of(workdir)) < after or not workers:
            return False
        try:
            os.kill(choose(random, workers), signals)
        except ProcessLookupError:
            return False
        killed = signals.name
        return True

    started.wait_until(strike)
    at = time.monotonic()
    statuses, text = started.end()
    seconds = time.monotonic() - at
    what = f"{killed} to a worker after {after} epochs"
    said = told(text, "error:", "worker")
    assert "Traceback" not in text, text[-3000:]
    assert seconds < 60 or statuses == [0], f"{statuses} after {seconds:.0f} s"
    assert statuses != [0] or said == "not a word", text
    finish(scenario, workdir)
    then = f"status {statuses[0]} after {seconds:.0f} s: {said}"
    yield [scenario.name, what, then, bench.lost(scenario, workdir)]


def _children(pid: int) -> list[int]:
    """The processes that a process has started to work for it."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            stat = (path / "stat").read_text()
            command = (path / "cmdline").read_bytes()
        except OSError:
            continue
        if int(stat.rpartition(")")[2].split()[1]) == pid and b"resource_tracker" not in command:
            found.append(int(path.name))
    return sorted(found)


# --- Clocks.

_ZONES = [
    "Pacific/Apia",
    "Asia/Kathmandu",
    "America/St_Johns",
    "UTC",
    "no/zone",
]
_DAY = 86400


def has_compiler() -> bool:
    return shutil.which("cc") is not None and os.path.exists("/proc")


def jump(bench: Bench, random: np.random.Generator, when: str) -> Iterator[Row]:
    """Has the clock jump amid a run, or between a stop and the start that follows."""
    library = bench.folder / f"clock-{random.integers(2**40)}.so"
    source = str(_HERE / "clock.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(library), source], check=True)
    usual = bench.seeded(Scenario("every epoch saved", SMALL))
    bench.whole(usual)
    workdir = bench.folder / f"clock-{random.integers(2**40)}"

    def jumping(jumps: list[tuple[float, int]]) -> Scenario:
        told_so = ",".join(f"{at:.2f}:{by}" for at, by in jumps)
        zone = choose(random, _ZONES)
        changes = {"LD_PRELOAD": str(library), "CLOCK_JUMPS": told_so, "TZ": zone}
        return replace(usual, environment=changes)

    def size() -> int:
        return int(choose(random, [-1, 1]) * choose(random, [3, 3600, 400 * _DAY]))

    if when == "amid the run":
        jumps = [(float(random.uniform(1, 12)), size()) for _ in range(4)]
        what = "clock " + ", ".join(f"{by:+,} s after {at:.0f} s" for at, by in sorted(jumps))
        scenario = jumping(jumps)
        text = finish(scenario, workdir)
        what += f", TZ={scenario.environment['TZ']}"
    else:
        first, second = jumping([(0, size())]), jumping([(0, size())])
        act = {"do": "kill", "folder": str(workdir), "number": int(random.integers(40, 200))}
        Started(first, workdir, act).end()
        lines = len(lines_of(workdir))
        text = finish(second, workdir)
        clocks = (s.environment for s in (first, second))
        starts = [f"{clock['CLOCK_JUMPS'][5:]} s, TZ={clock['TZ']}" for clock in clocks]
        what = f"clock off by {starts[0]}; killed after {lines} lines; then by {starts[1]}"
    assert "Traceback" not in text, text[-3000:]
    then = f"seconds from {_least_seconds(workdir):.3f} up"
    yield [usual.name, what, then, bench.lost(usual, workdir)]


def _least_seconds(workdir: Path) -> float:
    """The least of all times of a run; AssertionError where one cannot be."""
    lines, result = lines_of(workdir), json.loads((workdir / "result.json").read_text())
    elapsed = [line["elapsed"] for line in lines]
    assert elapsed == sorted(elapsed), f"elapsed goes back: {elapsed}"
    seconds = [line["seconds"] for line in lines] + list(result["seconds"].values())
    assert min(seconds) >= 0 and result["seconds"]["total"] >= elapsed[-1] > 0, seconds
    assert result["seconds"]["total"] < 3600, result["seconds"]
    return min(seconds)
