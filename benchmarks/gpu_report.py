"""What `benchmarks.gpu` found, in Markdown."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

Row = dict[str, Any]
EAGER, EXACT, SHARED = "pytorch", "exact", "shared"


def read_rows(path: Path) -> list[Row]:
    """The lines of results.jsonl; one that was cut off by a kill is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "part" in row:
            rows.append(row)
    return rows


def summarise(rows: Sequence[Row]) -> str:
    """Everything in Markdown; of what was measured twice the newest."""
    of = {part: [row for row in rows if row["part"] == part] for part in _PARTS}
    parts = ["# A GPU", _calls([row for row in rows if row["part"] == "call"], rows)]
    parts += [_ends([row for row in rows if row["part"] == "end"])]
    for name, (title, make) in _PARTS.items():
        if of[name]:
            parts += [f"## {title}", make(of[name], rows)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    cells = [[cell if isinstance(cell, str) else _number(cell) for cell in row] for row in rows]
    return tabulate(cells, header, "pipe", disable_numparse=True) if cells else ""


def _number(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 100 else f"{value:.3g}"


def _name(depths: Sequence[int]) -> str:
    return "-".join(map(str, depths))


def _errors(rows: Iterable[Row]) -> str:
    told = [
        f"- {', '.join(filter(None, [row['task'], row.get('form')]))}: {row['error']}"
        for row in rows
        if "error" in row
    ]
    return "\n".join(dict.fromkeys(told))


def _calls(calls: Sequence[Row], rows: Sequence[Row]) -> str:
    header = ["date", "card", "driver", "commit", "XLA_FLAGS", "command"]
    keys = ("date", "card", "driver", "commit", "flags", "command")
    table = _table(header, [[str(call[key]).replace("\n", ", ") for key in keys] for call in calls])
    said = next((row for row in reversed(rows) if "versions" in row), None)
    if said is None:
        return table
    versions = ", ".join(f"{name} {version}" for name, version in said["versions"].items())
    return f"{table}\n\nJAX's device: {said['device']}; {versions}."


def _ends(ends: Sequence[Row]) -> str:
    newest = {row["task"]: row for row in ends}
    rows = [[row["task"], row["state"], row["seconds"]] for row in newest.values()]
    bad = [row[0] for row in rows if row[1] != "done"]
    note = f"\n\nNot done: {', '.join(bad)}; log.txt has what they printed." if bad else ""
    return f"## Tasks\n\n{_table(['task', 'how it ended', 'seconds'], rows)}{note}"


def _correctness(rows: Sequence[Row], _: Sequence[Row]) -> str:
    steps = [
        [row["family"], row["relative_error"], row["is_right"]] for row in rows if "family" in row
    ]
    parts = [_table(["family", "largest error of a step", "right"], steps)]
    for row in rows:
        if "test_accuracy" in row:
            seconds = {name: round(spent, 1) for name, spent in row["seconds"].items()}
            parts.append(
                f"The digits run: {_name(row['depths'])}, {row['test_accuracy']:.2f} %, programs"
                f" {row['programs']}; seconds {seconds}."
            )
        if "is_bit_equal" in row:
            how = "to the last bit" if row["is_bit_equal"] else "up to rounding"
            how = how if row["is_right"] else "NOT"
            parts.append(
                f"A killed run ends as one that was not: {how} (losses differ by"
                f" {row['largest_difference_of_losses']})."
            )
    return "\n\n".join(filter(None, [*parts, _errors(rows)]))


def _cells(rows: Sequence[Row]) -> dict[tuple[str, ...], dict[str, Row]]:
    """Of each net, batch and precision the newest row of each form."""
    cells: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        if "milliseconds" in row:
            net = f"{row['family']} {_name(row['depths'])}"
            cells.setdefault((net, str(row["batch"]), row["precision"]), {})[row["form"]] = row
    return cells


def _steps(rows: Sequence[Row], _: Sequence[Row]) -> str:
    cells = _cells(rows)
    forms = list(dict.fromkeys(form for found in cells.values() for form in found))
    header = ["net", "batch", "precision", *forms]
    milliseconds, ratios = [], []
    for cell, found in cells.items():
        milliseconds.append([*cell, *(found.get(f, {}).get("milliseconds") for f in forms)])
        ratios.append([*cell, *(found.get(f, {}).get("over_eager") for f in forms)])
    parts = ["A training step in milliseconds:", _table(header, milliseconds)]
    if any(found.get(EAGER) for found in cells.values()):
        parts += [
            "As a multiple of PyTorch's eager step, median over rounds in which they took turns"
            " (the aim is 0.33):",
            _table(header, ratios),
        ]
    if verdict := _choose(cells):
        parts.append(verdict)
    return "\n\n".join([*parts, _errors(rows)])


def _choose(cells: dict[tuple[str, ...], dict[str, Row]]) -> str:
    """What the steps say `growth.programs` should be."""
    wanted = {EXACT, SHARED}
    found = [c for c in cells.values() if wanted <= c.keys()]
    if not found:
        return ""
    logs = [math.log(c[SHARED]["milliseconds"] / c[EXACT]["milliseconds"]) for c in found]
    times = math.exp(sum(logs) / len(logs))
    faster = EXACT if times > 1 else SHARED
    return (
        f"Over {len(found)} cells a step of `shared` takes {times:.2f} times that of `exact`"
        f" (geometric mean): for this kind of device `growth.programs` should be `{faster}`, unless"
        " the phases below say otherwise (`autogrow_jax/steps/programs.py`)."
    )


def _roofline(rows: Sequence[Row], everything: Sequence[Row]) -> str:
    limits = {row["precision"]: row for row in rows if "flops_per_second" in row}
    parts = [
        _table(
            ["precision", "memory GB/s", "matrix product TFLOP/s"],
            [
                [name, row["bytes_per_second"] / 1e9, row["flops_per_second"] / 1e12]
                for name, row in limits.items()
            ],
        )
    ]
    shares = []
    for (net, batch, precision), found in _cells(
        [row for row in everything if row["part"] == "steps"]
    ).items():
        if limit := limits.get(precision):
            fastest = min(found.values(), key=lambda row: row["milliseconds"])
            work = fastest["work"]
            least = max(
                work["flops"] / limit["flops_per_second"],
                work["bytes"] / limit["bytes_per_second"],
            )
            share = 100 * least / (fastest["milliseconds"] / 1000)
            shares.append([net, batch, precision, fastest["form"], 1000 * least, share])
    header = ["net", "batch", "precision", "fastest form", "least ms", "share %"]
    parts.append(_table(header, shares))
    for row in rows:
        if "dispatches_of_an_epoch" in row:
            parts.append(
                f"An epoch of {row['steps_of_an_epoch']} steps is {row['dispatches_of_an_epoch']}"
                f" dispatch(es), programs {row['programs']}."
            )
    waits = [
        [
            *(row["form"], _name(row["depths"])),
            *(row["copies_to_host_per_step"], row["synchronizations_per_step"]),
        ]
        for row in rows
        if "copies_to_host_per_step" in row
    ]
    header = ["form", "net", "copies to the host a step", "synchronisations a step"]
    return "\n\n".join(filter(None, [*parts, _table(header, waits), _errors(rows)]))


def _phase(rows: Sequence[Row], _: Sequence[Row]) -> str:
    newest = {row["phase"]: row for row in rows if "total" in row}
    header = ["phase", "steps an epoch", "total s", "steady steps s", "compilation waited for s"]
    header += ["ahead s", "waits s", "all but steps and evaluation %", "compilations"]
    table = [
        [
            *(name, row["steps_per_epoch"], row["total"], row["steady"], row["compile"]),
            *(row["ahead"], row["waits"], 100 * row["share"], int(row["compilations"])),
        ]
        for name, row in newest.items()
    ]
    return "\n\n".join(filter(None, [_table(header, table), _errors(rows)]))


def _cell(rows: Sequence[Row], _: Sequence[Row]) -> str:
    row = rows[-1]
    if result := row.get("result"):
        return (
            f"Plain3Net on MNIST, finished: {_name(result['depths'])},"
            f" {result['best_validation_accuracy']:.2f} % at best, {result['test_accuracy']:.2f} %"
            f" at the end, {result['epochs']} epochs in {result['seconds']['total']:.0f} s (the"
            " paper: 20-20-20, 99.66 %)."
        )
    if "error" in row or row.get("best_validation_accuracy") is None:
        return _errors(rows)
    return (
        f"Plain3Net on MNIST, under way: {_name(row['depths'])} in the phase of {row['phase']} at"
        f" epoch {row['epoch']}, {row['best_validation_accuracy']:.2f} % at best. The same command"
        " goes on."
    )


_PARTS = {
    "correctness": ("Correctness", _correctness),
    "steps": ("Training steps", _steps),
    "roofline": ("Roofline, dispatches, waits", _roofline),
    "phase": ("A growth phase", _phase),
    "cell": ("A cell of the paper", _cell),
}
