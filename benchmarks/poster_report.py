"""The poster's table in Markdown; `benchmarks.poster` makes its rows."""

from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from autogrow_jax.reporting.numbers import format_depths

_INTRODUCTION = """\
All runs follow the paper's protocol: the test set steers growth, and accuracy is the best on it of
all epochs. So does the paper's, of which each number is of one seed; other seeds find other depths.
Delta is accuracy less that of the net that was found, trained from scratch, in points. On 25 to
100 % of a set K, the epochs between two growths, is scaled as the paper has it; its window J = 100
is not. The floor is the depth that growth reaches on a curve that never rises. The two controls are
ours.

This file is written by `python -m benchmarks.poster` from the files in `runs/`.
`python -m benchmarks.poster --keep WORKDIR` adds a run, finished or under way."""
_INSTRUCTIONS = """\
DATA is the folder of the sets' official files, DEPTHS are those of the net that was found, as
`17,8,16`. The same command goes on where it was stopped; `--config.seed=1` is another seed. A run
comes into the table, under way or finished, by `python -m benchmarks.poster --keep WORKDIR`. At
100 % the commands are those of the main table; the nets of the controls from scratch are trained by
the last table's commands too, with `--config.mode=scratch --config.model.depths=DEPTHS`."""


def format_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The whole file."""
    runs = {each["files"]: each["is_done"] for row in rows for each in row["ours"]}
    published = [row for row in rows if row["paper"]]
    finished = [row for row in published if any(each["is_done"] for each in row["ours"])]
    parts = ["# The poster's cells", _INTRODUCTION]
    parts.append(
        f"Of the poster's {len(published)} cells ({len({row['name'] for row in published})}"
        f" different runs, as both tables have those at 100 %) {len(finished)} are finished;"
        f" {sum(not is_done for is_done in runs.values())} under way."
    )
    for title, own in _by_table(rows).items():
        states = [_describe(row, each) for row in own for each in row["ours"]]
        parts += [f"## {title}", _table(own), "\n".join(states)]
    parts += ["## The commands", _INSTRUCTIONS]
    for title, own in _by_table(rows).items():
        # At full size they are those of the main table.
        chosen = [row for row in own if "100 %" not in row["names"]]
        lines = [command for row in chosen for command in row["commands"].values()]
        parts += [f"{title}:", "\n".join(["```sh", *lines, "```"])]
    return "\n\n".join(part for part in parts if part) + "\n"


def _by_table(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    titles = dict.fromkeys(row["table"] for row in rows)
    return {title: [row for row in rows if row["table"] == title] for title in titles}


def _describe(row: Mapping[str, Any], each: Mapping[str, Any]) -> str:
    of = f"; of commit {each['commit']}" if each["commit"] else ""
    return (
        f"- {', '.join(row['names'][:3])}, seed {each['seed']}: {each['state']}{of}; kept"
        f" {each['kept']} in [{each['files']}]({each['files']})"
    )


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    is_main = len(rows[0]["names"]) == 2
    header = ["net", "set", *([] if is_main else ["data", "K", "J", "floor"])]
    header += ["paper", "%", *(["delta"] if is_main else [])]
    header += ["ours", "%", "at the end %", "delta", "seed", "steered by", "state"]
    body = []
    for row in rows:
        theirs, paper = [""] * 3, row["paper"]
        if paper:
            theirs = [format_depths(paper["depths"]), f"{paper['accuracy']:.2f}"]
            theirs.append(_points(paper["delta"], "+"))
        cells = [*row["names"], *(theirs if is_main else theirs[:2])]
        body += [[*cells, *_ours(each)] for each in row["ours"] or [None]]
    return tabulate(body, header, "pipe", disable_numparse=True)


def _ours(each: Mapping[str, Any] | None) -> list[str]:
    if each is None:
        return [""] * 6 + ["not run"]
    cells = [format_depths(each["depths"]), _points(each["accuracy"])]
    cells += [_points(each["final_accuracy"]), _points(each["delta"], "+"), str(each["seed"])]
    steered = "the test set" if each["validation"] == "test" else each["validation"]
    return [*cells, steered, "finished" if each["is_done"] else "under way"]


def _points(value: float | None, sign: str = "") -> str:
    return "" if value is None else f"{value:{sign}.2f}"
