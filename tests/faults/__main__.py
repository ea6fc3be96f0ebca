"""Breaks runs and prints what was done and what was lost, as a table in Markdown.

python -m tests.faults --kills 50 --seed 0 --out results/faults
"""

import argparse
import datetime
import platform
import shlex
import sys
import tempfile
from pathlib import Path

import jax

from .harness import table
from .kills import HEAD, kill_often


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.faults", description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=4, help="how often a run is killed")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, help="folder for kills.md")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for row in kill_often(Path(folder), options.kills, options.seed):
            rows.append(row)
            print(*row, sep=" | ", flush=True)
            text = _write(rows, options.out)
    print(text)
    return int(any(row[-1] != "nothing" for row in rows))


def _write(rows: list[list[object]], out: Path | None) -> str:
    lost = sum(row[-1] != "nothing" for row in rows)
    words = [
        "# Killed runs",
        f"`{shlex.join(['python', '-m', 'tests.faults', *sys.argv[1:]])}`,"
        f" {datetime.date.today().isoformat()}, jax {jax.__version__},"
        f" Python {platform.python_version()}.",
        "Each run is killed (SIGKILL) up to eight times, then left to end. Lost is what differs"
        " then from the run that nobody disturbed: of metrics.jsonl and result.json, times left"
        " out, of what the last checkpoint remembers, or of any byte of its arrays.",
        table(HEAD, rows),
        f"{len(rows)} kills, {lost} with a loss.",
    ]
    text = "\n\n".join(words) + "\n"
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "kills.md").write_text(text)
    return text


if __name__ == "__main__":
    sys.exit(main())
