"""One task of `benchmarks.gpu`, in a process of its own; what it finds it writes at once."""

import argparse
import datetime
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from autogrow_jax.children import stop_with_parent

# A task that ends with this status goes on in a later call.
LATER = 75
Note = Callable[..., None]


class Job(NamedTuple):
    """What a task is given.

    Attributes:
      task: its name, "PART" or "PART:WHAT".
      what: that behind the part's.
      seconds: that it has.
      out: folder of all results.
      data_dir: of MNIST's official files; "" for none.
      workdir: of the run in part "cell".
      tiny: whether figures mean nothing.
      note: writes a figure, by names.
    """

    task: str
    what: str
    seconds: float
    out: Path
    data_dir: str
    workdir: str
    tiny: bool
    note: Note


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the task that `benchmarks.gpu` names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_worker")
    parser.add_argument("--out", required=True)
    parser.add_argument("--task", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--data-dir", default="")
    parser.add_argument("--workdir", default="")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--parent", type=int)
    options = parser.parse_args(arguments)
    if options.parent is not None:
        stop_with_parent(options.parent)
    part, _, what = options.task.partition(":")
    out = Path(options.out)
    said: dict[str, Any] = {}

    def note(**row: Any) -> None:
        if not said:
            said.update(_describe())
        line = json.dumps({"part": part, "task": options.task, **row, **said}, default=float)
        with (out / "results.jsonl").open("a") as file:
            file.write(line + "\n")

    where = out, options.data_dir, options.workdir
    job = Job(options.task, what, options.seconds, *where, options.tiny, note)
    # Each imports what it needs: a part whose needs are missing leaves the others alone.
    if part == "steps":
        from benchmarks.gpu_steps import measure_steps as work
    else:
        from benchmarks import gpu_parts

        work = getattr(gpu_parts, f"do_{part}")
    work(job)


def _describe() -> dict[str, Any]:
    """What a figure means nothing without."""
    import jax

    from autogrow_jax.training.ending import find_versions

    return {
        "device": jax.devices()[0].device_kind,
        "versions": find_versions(),
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }


if __name__ == "__main__":
    main(sys.argv[1:])
