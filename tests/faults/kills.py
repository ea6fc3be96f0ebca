"""SIGKILL and SIGTERM at random moments, until a run has ended all the same: what each cost."""

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from .harness import (
    SMALL,
    Bench,
    Row,
    Scenario,
    Started,
    choose,
    finish,
    is_saving,
    lines_of,
    newest,
    told,
)

EVERY_EPOCH = Scenario("every epoch saved")
TWO = Scenario("two processes", SMALL | {"num_devices": 0, "checkpoint.every": 2}, processes=2)
SCENARIOS = [
    EVERY_EPOCH,
    Scenario("every third epoch saved", SMALL | {"checkpoint.every": 3, "checkpoint.keep": 1}),
    Scenario("lookahead", SMALL | {"growth.policy": "lookahead", "growth.interval": 2}),
    Scenario("snapshots, a report", SMALL | {"snapshots.every": 1, "log.report": True}),
    TWO,
]
# When a process is to be killed; a random delay of up to so many seconds follows.
MOMENTS: dict[str, tuple[Callable[[Path, int, int], bool], float]] = {
    "as it starts": (lambda workdir, before, last: True, 4.0),
    "in growth": (lambda workdir, before, last: _is_in(workdir, before, "growth"), 1.0),
    "in the front": (lambda workdir, before, last: _is_in(workdir, before, "finetune"), 1.0),
    "while it saves": (lambda workdir, before, last: is_saving(workdir), 0.05),
    "as it ends": (lambda workdir, before, last: len(lines_of(workdir)) >= last, 2.0),
}
_AT_A_FILE = "at an operation on a file"
# Of a run of one process, so many before it has ended, at least.
_OPERATIONS = 250
# The others end within a minute of the one that was killed.
_MINUTE = 60.0


def _is_in(workdir: Path, before: int, phase: str) -> bool:
    """Whether this start, which found lines `before`, has trained an epoch in a phase."""
    lines = lines_of(workdir)
    return len(lines) > before and lines[-1]["phase"] == phase


def kill_often(
    bench: Bench, random: np.random.Generator, kills: int, scenario: Scenario
) -> Iterator[Row]:
    """Kills a run so many times and yields a row for each kill once the run has ended.

    Where it ends first, another one is begun. "lost" lists what differs at the end from the run
    that was not disturbed.
    """
    scenario, number = bench.seeded(scenario), 0
    last = len(bench.whole(scenario)["metrics.jsonl"])
    while number < kills:
        workdir, rows = bench.folder / f"killed-{random.integers(2**40)}", []
        while number < kills:
            row = _kill_once(scenario, workdir, random, last)
            if row is None:  # It ended first.
                break
            number += 1
            rows.append([scenario.name, *row])
        finish(scenario, workdir)
        lost = bench.lost(scenario, workdir)
        yield from ([*row, lost] for row in rows)
        if lost == "nothing":
            shutil.rmtree(workdir)


def _kill_once(
    scenario: Scenario, workdir: Path, random: np.random.Generator, last: int
) -> list[str] | None:
    """Starts a run and kills it; what was done and what was there then, or None where it ended."""
    alone = scenario.processes == 1
    moment = choose(random, [*MOMENTS, *[_AT_A_FILE] * (2 * alone)])
    if moment == _AT_A_FILE:
        number = int(random.integers(1, _OPERATIONS))
        act = {"do": "kill", "folder": str(workdir), "number": number}
        statuses, text = Started(scenario, workdir, act).end()
        moment = f"before operation {number} on its files"
        after = ""
    else:
        statuses, text, after = _kill_at(scenario, workdir, random, moment, last)
    if not any(statuses):
        return None
    assert -signal.SIGKILL in statuses, f"{statuses}: {text[-2000:]}"
    lines, saved = len(lines_of(workdir)), newest(workdir)
    if is_saving(workdir):
        moment += ", a save under way"
    what = "SIGKILL" if alone else "SIGKILL to one of two" if after else "SIGKILL to both"
    then = f"{lines} lines, checkpoint {saved}; {max(0, lines - saved)} epochs again{after}"
    return [f"{what} {moment}", then]


def _kill_at(
    scenario: Scenario, workdir: Path, random: np.random.Generator, moment: str, last: int
) -> tuple[list[int], str, str]:
    """Kills at a moment; of two processes one or both, and says when the other had ended."""
    is_now, most = MOMENTS[moment]
    delay, before = float(random.uniform(0, most)), len(lines_of(workdir))
    index = choose(random, [0, 1, None]) if scenario.processes > 1 else None
    if moment == "as it starts":  # The others wait ten minutes for one that has not joined yet.
        index = None
    started = Started(scenario, workdir)
    if started.wait_until(lambda: is_now(workdir, before, last)):
        asked = time.monotonic() + delay
        started.wait_until(lambda: time.monotonic() >= asked)
    started.send(signal.SIGKILL, index)
    at = time.monotonic()
    statuses, text = started.end()
    seconds = time.monotonic() - at
    if index is None or not any(statuses):
        return statuses, text, ""
    assert seconds < _MINUTE, f"the other ended after {seconds:.0f} s: {text[-2000:]}"
    other = statuses[1 - index]
    is_over = (workdir / "result.json").exists()  # Then the other needs nobody any more.
    assert other != 0 or is_over, f"the other ended with status 0: {text[-2000:]}"
    said = told(text, "error:", "another task died", "lost another", "Terminating process")
    return statuses, text, f"; the other ended after {seconds:.0f} s, status {other}: {said}"
