"""Timing by turns, and what a table of timings has to say about the machine."""

import datetime
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import jax

from autogrow_jax.process import processor_name
from autogrow_jax.training.ending import find_versions

Times = dict[str, list[float]]


def take_turns(
    functions: Mapping[str, Callable[[], Any]], repeats: int, limit_seconds: float = float("inf")
) -> Times:
    """Times functions in one process, one after the other, again and again.

    Whatever else the machine does at the time then slows all of them alike. Every other round goes
    backwards, so that none always follows the same one.

    Args:
      functions: by name; each returns arrays that are waited for. Called once before timing.
      repeats: rounds.
      limit_seconds: no new round begins after so long.

    Returns:
      Seconds of each call by name, entry i from round i.
    """
    for function in functions.values():
        jax.block_until_ready(function())
    times: Times = {name: [] for name in functions}
    began = time.perf_counter()
    for number in range(repeats):
        if number and time.perf_counter() - began > limit_seconds:
            break
        for name in list(functions)[:: 1 if number % 2 == 0 else -1]:
            start = time.perf_counter()
            jax.block_until_ready(functions[name]())
            times[name].append(time.perf_counter() - start)
    return times


def ratio(times: Times, name: str, over: str) -> float:
    """Median over the rounds of one function's time divided by another's in the same round."""
    return median(a / b for a, b in zip(times[name], times[over], strict=True))


def describe_machine() -> dict[str, Any]:
    """Processor, devices, versions, date and load: what a number means nothing without."""
    return {
        "cpu": processor_name(),
        "cores": os.cpu_count(),
        "devices": [device.device_kind for device in jax.devices()],
        "versions": find_versions(),
        "date": datetime.date.today().isoformat(),
        "load": list(os.getloadavg()),
    }


def print_machine(machine: Mapping[str, Any]) -> None:
    """Prints what `describe_machine` found, and the load as it is now."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    print(f"{machine['cpu']}, {machine['cores']} cores; devices: {', '.join(machine['devices'])}")
    print(f"{versions}; {machine['date']}")
    before, now = machine["load"][0], os.getloadavg()[0]
    print(f"load average (1 minute): {before:.1f} before, {now:.1f} now; ours adds up to all cores")


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints a Markdown table, numbers to the right."""
    cells = [[cell if isinstance(cell, str) else _number(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    right = [not isinstance(cell, str) for cell in rows[0]]

    def line(row: Sequence[str]) -> str:
        padded = [
            text.rjust(width) if numeric else text.ljust(width)
            for text, width, numeric in zip(row, widths, right, strict=True)
        ]
        return f"| {' | '.join(padded)} |"

    print(line(header))
    rules = ["-" * (w - 1) + (":" if r else "-") for w, r in zip(widths, right, strict=True)]
    print(line(rules))
    for row in cells:
        print(line(row))


def _number(value: float) -> str:
    return f"{value:.0f}" if isinstance(value, int) or abs(value) >= 100 else f"{value:#.3g}"


def write_json(path: str, content: Mapping[str, Any]) -> None:
    """Writes the figures to a file, where one is named."""
    if path:
        Path(path).write_text(json.dumps(content, indent=1) + "\n")
