"""What `growth_phase` found, put into tables."""

from collections.abc import Sequence
from statistics import median

import numpy as np

from benchmarks.depth_as_data import format_depths
from benchmarks.measure import print_table
from benchmarks.phases import Record

OURS, EXACT, UNROLLED, PYTORCH, DIGITS = "ours", "exact", "unrolled", "pytorch", "digits"
_TARGET_SECONDS = 600
_GIB = 2**30
_PARTS = ("evaluate", "compile", "growth", "checkpoint")

Summary = dict[str, dict[str, float]]


def summarise(rounds: Sequence[dict[str, Record]]) -> Summary:
    """Medians over the rounds, by phase: seconds by part, and shares of the total."""
    return {name: _medians([found[name] for found in rounds]) for name in rounds[0]}


def _medians(records: Sequence[Record]) -> dict[str, float]:
    rows = [_split(record) for record in records]
    return {name: median(row[name] for row in rows) for name in rows[0]}


def _split(record: Record) -> dict[str, float]:
    seconds = record["seconds"]
    parts = {name: seconds[name] for name in _PARTS}
    waits = seconds["train"] - seconds["steady"]
    rest = seconds["total"] - seconds["train"] - sum(parts.values())
    overhead = seconds["total"] - seconds["steady"] - seconds["evaluate"]
    return {
        "total": seconds["total"],
        "steady": seconds["steady"],
        **parts,
        "ahead": seconds.get("compile_ahead", 0.0),
        "waits": waits,
        "rest": rest,
        "overhead": overhead,
        "share": overhead / seconds["total"],
        "share_with_evaluation": 1 - seconds["steady"] / seconds["total"],
        "compilations": record["compilations"],
        "host_bytes": record["peak_memory"]["host"],
        "device_bytes": record["peak_memory"]["device"],
    }


def compare(rounds: Sequence[dict[str, Record]]) -> Summary:
    """How many times as long as ours the others took, medians over the rounds."""
    result = {}
    for name in rounds[0]:
        if name in (OURS, DIGITS) or OURS not in rounds[0]:
            continue
        steps = [
            theirs["seconds"] / ours["seconds"]
            for found in rounds
            for theirs, ours in zip(found[name]["depths"], found[OURS]["depths"], strict=True)
        ]
        result[name] = {
            part: median(f[name]["seconds"][part] / f[OURS]["seconds"][part] for f in rounds)
            for part in ("total", "steady")
        } | {"step": median(steps)}
    return result


def print_report(rounds: Sequence[dict[str, Record]], summary: Summary, ratios: Summary) -> None:
    """Prints the tables and what became of the claim."""
    names = list(summary)
    print("\nseconds of a growth phase\n")
    print_table(
        [
            *("phase", "total", "steady steps", "evaluation", "compilation", "ahead"),
            *("growth", "checkpoints", "waits", "rest", "all but steps %", "compilations", "GiB"),
        ],
        [
            [
                name,
                row["total"],
                row["steady"],
                *(row[part] for part in ("evaluate", "compile", "ahead", "growth", "checkpoint")),
                *(row["waits"], row["rest"]),
                100 * row["share"],
                int(row["compilations"]),
                (row["device_bytes"] or row["host_bytes"]) / _GIB,
            ]
            for name, row in summary.items()
        ],
    )
    print(
        "\nsteady steps: each as long as the median step at its depth. ahead: compilation in a"
        "\nthread beside the training, not in the total. waits: training beyond the steady steps,"
        "\nwhich is the host's work around an epoch, and steps that were slower. all but steps: the"
        "\ntotal less steady steps and evaluation. GiB: the process's peak, of device memory if it"
        "\nhas some."
    )
    phases = [name for name in names if name != DIGITS]
    if phases:
        first = rounds[0][phases[0]]["depths"]
        chosen = sorted({round(x) for x in np.linspace(0, len(first) - 1, 6)})
        print("\nthe median step in milliseconds\n")
        print_table(
            ["depths", *phases],
            [
                [
                    format_depths(first[place]["depths"]),
                    *(
                        1000 * median(f[name]["depths"][place]["seconds"] for f in rounds)
                        for name in phases
                    ),
                ]
                for place in chosen
            ],
        )
    if ratios:
        print("\ntime as a multiple of ours, medians\n")
        print_table(
            ["phase", "whole phase", "all steady steps", "a step"],
            [[name, row["total"], row["steady"], row["step"]] for name, row in ratios.items()],
        )
    if OURS in summary:
        row = summary[OURS]
        print(
            f"\nours: all but steps {100 * row['share']:.1f} % (claimed 5 % of 10 minutes), with"
            f" evaluation {100 * row['share_with_evaluation']:.1f} %."
        )
        if row["total"] < _TARGET_SECONDS:
            print(
                f"The phase was shorter than 10 minutes; of those, {row['overhead']:.0f} s would be"
                f" {100 * row['overhead'] / _TARGET_SECONDS:.1f} %."
            )
    if DIGITS in summary:
        print(f"digits: all but steps {100 * summary[DIGITS]['share']:.0f} % (claimed 50 %).")
