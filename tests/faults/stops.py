"""SIGTERM and Ctrl-C at random moments: how soon a run ends, and what it lost."""

import shutil
import signal
import time
from collections.abc import Iterator

import numpy as np

from .harness import SMALL, Bench, Row, Scenario, Started, choose, finish, lines_of, told
from .kills import MOMENTS, TWO

# Epochs of a second or more, so that most signals come amid one.
LONG = Scenario(
    "long epochs", SMALL | {"data.fraction": 1.0, "data.batch_size": 4, "snapshots.every": 2}
)
SCENARIOS = [LONG, LONG, TWO]
_STATUS = {signal.SIGTERM: 143, signal.SIGINT: 130}
# Within which a run that was told to stop has saved and ended.
_MOST = 10.0


def stop_often(
    bench: Bench, random: np.random.Generator, stops: int, scenario: Scenario
) -> Iterator[Row]:
    """Stops a run so many times and yields a row for each once the run has ended."""
    scenario = bench.seeded(scenario)
    last = len(bench.whole(scenario)["metrics.jsonl"])
    workdir, rows = bench.folder / f"stopped-{random.integers(2**40)}", []
    for _ in range(stops):
        moment = choose(random, list(MOMENTS))
        is_now, most = MOMENTS[moment]
        delay, before = float(random.uniform(0, most)), len(lines_of(workdir))
        number = choose(random, [signal.SIGTERM, signal.SIGTERM, signal.SIGINT])
        index = choose(random, [None, 0, 1]) if scenario.processes > 1 else None
        started = Started(scenario, workdir)
        # Until JAX is there, a process has no handler yet and nothing to save.
        started.wait_until(lambda: (workdir / ".lock-owner").exists())
        started.wait_until(lambda is_now=is_now, before=before: is_now(workdir, before, last))
        asked = time.monotonic() + delay
        started.wait_until(lambda asked=asked: time.monotonic() >= asked)
        started.send(number, index)
        at = time.monotonic()
        statuses, text = started.end()
        seconds = time.monotonic() - at
        what = f"{number.name}{'' if index is None else ' to one of two'} {moment}"
        said = told(text, "saved in epoch", "stopped")
        assert "Traceback" not in text, text[-3000:]
        is_over = (workdir / "result.json").exists()
        # As the interpreter ends, after a run that is over, nobody listens any more.
        allowed = {0, _STATUS[number], *([-number] if is_over else [])}
        if index is not None:  # The other is told to stop, whatever this one was told by.
            allowed.add(_STATUS[signal.SIGTERM])
        assert set(statuses) <= allowed, f"{text[-2000:]} {what}: {statuses}"
        then = f"status {max(statuses, key=abs)} after {seconds:.1f} s: {said}".replace(
            str(workdir), "DIR"
        )
        late = f"it took {seconds:.1f} s, " if seconds > _MOST else ""
        rows.append([scenario.name, what, then, late])
        if is_over:
            break
    finish(scenario, workdir)
    lost = bench.lost(scenario, workdir)
    yield from ([*row[:-1], row[-1] + lost] for row in rows)
    if lost == "nothing":
        shutil.rmtree(workdir)
