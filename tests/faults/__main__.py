"""Breaks runs and prints what was done and what was lost, as a table in Markdown.

python -m tests.faults --kills 50 --seed 0 --out results/faults

What was done is kept in the folder, so that the same command, stopped, goes on where it was.
"""

import argparse
import datetime
import hashlib
import json
import os
import platform
import shlex
import signal
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from . import damage, disk, events, kills, places, stops
from .harness import ROOT, Bench, Row, compile_cheaply, leave_nothing, table
from .warm import Warm

_TITLES = {
    "kills": "Killed: the end is bit for bit that of the run that nobody disturbed",
    "stops": "Told to stop (SIGTERM, Ctrl-C)",
    "damage": "Files damaged",
    "disk": "Disks that are full, folders that cannot be written to",
    "diverged": "Losses that diverge",
    "workers": "A worker that decodes images dies",
    "clocks": "Clocks and time zones",
    "places": "Gone on from elsewhere",
}
# Kills of one run.
_MOST = 5


class Case(NamedTuple):
    """What is done to one run or a few, with a seed of its own."""

    part: str
    name: str
    work: Callable[[np.random.Generator], Iterator[Row]]


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.faults", description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="how often runs are killed")
    parser.add_argument("--seed", type=int, default=0, help="of moments, damages and runs")
    parser.add_argument("--out", type=Path, help="folder for faults.md, and to go on from")
    parser.add_argument("--only", choices=_TITLES, nargs="+", default=list(_TITLES), help="parts")
    parser.add_argument("--match", default="", help="only cases whose part/name has this in it")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (default: 2)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        compile_cheaply(Path(folder) / "compiled")

        def stop(number: int, frame: object) -> None:
            leave_nothing(Path(folder))
            os._exit(128 + number)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        return _work(Bench(Path(folder), options.seed), options)


def _work(bench: Bench, options: argparse.Namespace) -> int:
    notes: list[str] = []
    code, done = _code(), _read(options.out)
    found: dict[str, list[Row]] = {}

    def write() -> str:
        sound = {name: rows for name, rows in found.items() if rows and _is_sound(rows)}
        return _write(found, notes, options.out, done | sound)  # Others are tried again.

    with ThreadPoolExecutor(options.jobs) as threads:
        running = {}
        for case in list_cases(bench, options.kills, notes):
            key = f"{code} {options.seed} {case.part}/{case.name}"
            if case.part not in options.only or options.match not in f"{case.part}/{case.name}":
                continue
            found[key] = done.get(key, [])
            if not found[key]:
                running[threads.submit(_try, case, options.seed)] = key
        for future in as_completed(running):
            key = running[future]
            for row in future.result():
                print(key.split(" ", 2)[2], *row, sep=" | ", flush=True)
            found[key] = future.result()
            write()
    print(write())
    return int(not all(map(_is_sound, found.values())))


def _try(case: Case, seed: int) -> list[Row]:
    """The rows of a case; of one that could not be done, what went wrong."""
    random = np.random.default_rng([seed, zlib.crc32(f"{case.part}/{case.name}".encode())])
    rows: list[Row] = []
    try:
        rows += case.work(random)
    except Exception as error:
        said = " ".join(str(error).split())[-600:]
        rows.append([case.name, "", f"{type(error).__name__}: {said}", "the check failed"])
    return rows


def _is_sound(rows: list[Row]) -> bool:
    return all(row[-1] == "nothing" for row in rows)


def list_cases(bench: Bench, number: int, notes: list[str]) -> Iterator[Case]:
    """All that is done; what cannot be done here is told in `notes`."""
    for start in range(0, number, _MOST):
        scenario = kills.SCENARIOS[start // _MOST % len(kills.SCENARIOS)]
        count = min(_MOST, number - start)
        yield Case(
            "kills",
            f"{start + 1} to {start + count}",
            lambda random, c=count, s=scenario: kills.kill_often(bench, random, c, s),
        )
    for number, scenario in enumerate(stops.SCENARIOS, start=1):
        yield Case(
            "stops",
            f"{scenario.name}, {number}",
            lambda random, s=scenario: stops.stop_often(bench, random, 4, s),
        )
    yield from _damages(bench)
    if disk.can_mount(bench.folder):
        for moment in disk.MOMENTS:
            yield Case("disk", moment, lambda r, m=moment: disk.fill_at(bench, r, m))
        yield Case("disk", "export", lambda r: disk.export_to_full(bench, r))
    else:
        notes.append("No small disk could be mounted here, so none was filled.")
    for what in disk.LOCKED:
        yield Case("disk", what, lambda r, w=what: disk.lock_at(bench, r, w))
    for policy in ("stop", "restart", "restart, again"):
        yield Case("diverged", policy, lambda r, p=policy: events.diverge(bench, r, p))
    if events.has_grain():
        for number in range(3):
            yield Case("workers", str(number), lambda r: events.kill_worker(bench, r))
    else:
        notes.append("Grain is not installed here, so no worker was killed.")
    if events.has_compiler():
        for when in ("amid the run", "amid the run, again", "between starts", "between, again"):
            name = when.partition(", ")[0]
            yield Case("clocks", when, lambda r, w=name: events.jump(bench, r, w))
    else:
        notes.append("There is no C compiler here, so no clock jumped.")
    for way in places.WAYS:
        yield Case("places", way, lambda r, w=way: places.move(bench, r, w))


def _damages(bench: Bench) -> Iterator[Case]:
    """The files are known once the runs are there, so they are dealt out by number."""
    for finished in (False, True):
        for share in range(_SHARES):

            def work(
                random: np.random.Generator, finished: bool = finished, share: int = share
            ) -> Iterator[Row]:
                source, warm = damage.prepare(bench, finished), Warm(bench.seeded(damage.KEPT))
                names = damage.files_of(source)[share::_SHARES]
                try:
                    yield from damage.damage_each(bench, random, source, names, warm)
                finally:
                    warm.close()

            name = f"{'finished' if finished else 'killed'}, {share + 1} of {_SHARES}"
            yield Case("damage", name, work)


_SHARES = 4


def _code() -> str:
    """A name for the code that runs and for this harness."""
    found = hashlib.sha256()
    for folder in ("autogrow_jax", "tests/faults"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".h", ".cc", ".c"):
                found.update(path.read_bytes())
    return found.hexdigest()[:12]


def _read(out: Path | None) -> dict[str, list[Row]]:
    """What was done before, by code, seed and case."""
    try:
        return json.loads((out / "faults.json").read_text()) if out else {}
    except FileNotFoundError:
        return {}


def _write(
    found: dict[str, list[Row]], notes: list[str], out: Path | None, done: dict[str, list[Row]]
) -> str:
    rows = [row for each in found.values() for row in each]
    missing = sum(not each for each in found.values())
    words = [
        "# What was broken, and what was lost",
        f"`{shlex.join(['python', '-m', 'tests.faults', *sys.argv[1:]])}`,"
        f" {datetime.date.today().isoformat()}, jax {jax.__version__},"
        f" Python {platform.python_version()}, code {_code()}.",
        "Each run is started again and left to end. Lost is what differs then from the run that"
        " nobody disturbed: any file of its folder, times left out, what the last checkpoint"
        " remembers, or any byte of its arrays.",
        *notes,
    ]
    for part, title in _TITLES.items():
        its = [row for key, each in found.items() if f" {part}/" in key for row in each]
        if its:
            words += [f"## {title}", table(its)]
    lost = sum(row[-1] != "nothing" for row in rows)
    words.append(f"{len(rows)} faults, {lost} with a loss; {missing} parts are still to be done.")
    text = "\n\n".join(words) + "\n"
    if out:
        out.mkdir(parents=True, exist_ok=True)
        _replace(out / "faults.md", text)
        _replace(out / "faults.json", json.dumps(done, indent=1) + "\n")
    return text


def _replace(path: Path, text: str) -> None:
    draft = path.with_suffix(".draft")
    draft.write_text(text)
    os.replace(draft, path)


if __name__ == "__main__":
    sys.exit(main())
