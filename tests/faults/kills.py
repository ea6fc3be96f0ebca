"""SIGKILL at random moments, until a run has ended all the same: what each of them cost."""

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from .harness import (
    SCENARIOS,
    Scenario,
    Started,
    choose,
    differences,
    finish,
    is_saving,
    lines_of,
    newest,
    the_end,
)

HEAD = ["kill", "run", "killed", "lines written", "checkpoint", "epochs trained again", "lost"]
# When a process is to be killed; a random delay of up to so many seconds follows.
MOMENTS: dict[str, tuple[Callable[[Path, int], bool], float]] = {
    "as it starts": (lambda workdir, before: True, 4.0),
    "in growth": (lambda workdir, before: _is_in(workdir, before, "growth"), 1.0),
    "in the front": (lambda workdir, before: _is_in(workdir, before, "finetune"), 1.0),
    "while it saves": (lambda workdir, before: is_saving(workdir), 0.05),
}
_PATIENCE = 300.0


def _is_in(workdir: Path, before: int, phase: str) -> bool:
    """Whether this start, which found lines `before`, has trained an epoch in a phase."""
    lines = lines_of(workdir)
    return len(lines) > before and lines[-1]["phase"] == phase


def kill_often(
    folder: Path, kills: int, seed: int, scenarios: list[Scenario] = SCENARIOS
) -> Iterator[list[object]]:
    """Kills runs so many times in all and yields a row for each kill once its run has ended.

    Each run is killed up to eight times on its way. "lost" lists what differs at the end from the
    run that was not disturbed.
    """
    random, number, undisturbed = np.random.default_rng(seed), 0, {}
    while number < kills:
        scenario = scenarios[int(random.integers(len(scenarios)))]
        if scenario.name not in undisturbed:
            whole = folder / f"whole-{len(undisturbed)}"
            finish(scenario, whole)
            undisturbed[scenario.name] = the_end(whole)
        workdir, rows = folder / f"killed-{number}", []
        for _ in range(min(8, kills - number)):
            row = _kill_once(scenario, workdir, choose(random, list(MOMENTS)), random)
            if row is None:  # It ended first.
                break
            number += 1
            rows.append([number, scenario.name, *row])
        finish(scenario, workdir)
        lost = differences(undisturbed[scenario.name], the_end(workdir))
        for row in rows:
            yield [*row, ", ".join(lost) or "nothing"]
        if not lost:
            shutil.rmtree(workdir)


def _kill_once(
    scenario: Scenario, workdir: Path, moment: str, random: np.random.Generator
) -> list[object] | None:
    """Starts a run and kills it; what it left then, or None where it had ended before."""
    is_now, most = MOMENTS[moment]
    delay, before = float(random.uniform(0, most)), len(lines_of(workdir))
    started = Started(scenario, workdir)
    deadline = time.monotonic() + _PATIENCE
    while started.runs and not is_now(workdir, before) and time.monotonic() < deadline:
        time.sleep(0.001)
    asked = time.monotonic() + delay
    while started.runs and time.monotonic() < asked:
        time.sleep(0.001)
    started.send(signal.SIGKILL)
    status, text = started.end()
    if status == 0:
        return None
    assert status == -signal.SIGKILL, text
    lines, saved = len(lines_of(workdir)), newest(workdir)
    where = moment + (", a save under way" if is_saving(workdir) else "")
    return [where, lines, saved, max(0, lines - saved)]
