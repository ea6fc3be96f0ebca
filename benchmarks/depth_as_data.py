"""What depth as data costs and saves: the padded training step against a program for each depth.

The rivals are a scan over the blocks of each depth, a scan over all slots with a condition at each,
and the blocks one after the other, ours or Flax's. The claim: a run of plain3 from 1-1-1 to
20-20-20 compiles the training step at most 6 times, and on a CPU, averaged over that run, a step
costs at most 1.15 times that of the unrolled network of the same depth. Where depth is a number of
turns, a measurement's steps are one dispatch, so --steps 1 is the hardest on it.

python -m benchmarks.depth_as_data [--family plain3] [--convolution xla] [--dtype float32]
    [--variants padded exact cond unrolled flax]
    [--last 20] [--batch-size 128] [--steps 1] [--repeats 5] [--samples 9 | --all] [--json FILE]
"""

import argparse
import sys
from collections.abc import Sequence
from statistics import mean, median
from typing import Any

import numpy as np

from autogrow_jax.growth import periodic, replay
from autogrow_jax.process import keep_freed_memory
from autogrow_jax.steps.state import TrainState, choose_capacities
from benchmarks.measure import (
    describe_machine,
    print_machine,
    print_table,
    ratio,
    take_turns,
    write_json,
)
from benchmarks.steps import FOR_EACH_DEPTH, OURS, RIVALS, Bench, Depths


def growth_path(last: int) -> list[Depths]:
    """All depths of a periodic run from 1-1-1 to last-last-last, as the policy goes."""
    policy = periodic(seed_depths=(1, 1, 1), max_depths=(last,) * 3, interval=1, window=10_000)
    events = replay(policy, np.linspace(0.0, 100.0, 3 * last + 1).tolist())
    return [(1, 1, 1), *(tuple(depths) for _, depths in events.growth)]


def capacities_along(path: Sequence[Depths]) -> list[Depths]:
    """The capacities a run has at each depth of its path."""
    found: list[Depths] = []
    for depths in path:
        found.append(choose_capacities(depths, found[-1] if found else (4, 4, 4)))
    return found


def choose_samples(capacities: Sequence[Depths], count: int) -> list[int]:
    """Positions on the path: both ends of every capacity's part, then the widest gaps' middles.

    Between them a step's time is close to linear in the position.
    """
    end = len(capacities) - 1
    changes = [i for i in range(1, end + 1) if capacities[i] != capacities[i - 1]]
    chosen = sorted({0, end, *changes, *(i - 1 for i in changes)})
    while len(chosen) < min(count, end + 1):
        gap = max(range(1, len(chosen)), key=lambda k: chosen[k] - chosen[k - 1])
        chosen.insert(gap, (chosen[gap - 1] + chosen[gap]) // 2)
    return chosen


def measure_depth(
    bench: Bench, depths: Depths, capacities: Depths, steps: int, repeats: int
) -> dict[str, Any]:
    """Checks at one depth that all variants train alike, and times them.

    Raises:
      AssertionError: where their first two losses differ.
    """
    exact = bench.exact_state(depths)
    variants = {name: bench.make_turns(name, exact, depths, capacities) for name in bench.variants}
    compile_seconds, losses = {}, {}
    for name, train in variants.items():
        before = bench.programs[name].seconds
        # The second loss is that after an update, so it holds the gradients to one another.
        losses[name] = [float(train(1).loss) / bench.batch_size for _ in range(2)]
        compile_seconds[name] = bench.programs[name].seconds - before
    if not np.allclose(list(losses.values()), losses[OURS], rtol=bench.tolerance):
        raise AssertionError(f"the variants compute different losses at {depths}: {losses}")
    times = take_turns(variants, repeats)
    return {
        "depths": depths,
        "capacities": capacities,
        "milliseconds": {name: 1000 * median(t) / steps for name, t in times.items()},
        "ratio": {name: ratio(times, OURS, name) for name in times if name != OURS},
        "compile_seconds": compile_seconds,
        "rounds": {name: [1000 * t / steps for t in all_t] for name, all_t in times.items()},
    }


def count_compilations(bench: Bench, path: Sequence[Depths], capacities: Sequence[Depths]) -> None:
    """Calls the padded step at every depth of the path, for no step: all a run compiles."""
    states: dict[Depths, TrainState] = {}
    for depths, room in zip(path, capacities, strict=True):
        if room not in states:
            states = {room: bench.exact_state(room)}
        states[room], _ = bench.train_stacked(OURS, states[room], depths, room, 0)


def format_depths(depths: Depths) -> str:
    return "-".join(map(str, depths))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints; `arguments` default to the process's."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.depth_as_data")
    parser.add_argument("--family", choices=("plain3", "basic3"), default="plain3")
    parser.add_argument("--convolution", choices=("xla", "native"), default="xla")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument(
        "--variants", nargs="+", choices=(OURS, *RIVALS), metavar="NAME", help="all by default"
    )
    parser.add_argument("--last", type=int, default=20, help="depth of each stage at the end")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=1, help="training steps a measurement")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each variant")
    parser.add_argument("--samples", type=int, default=9, help="depths measured, at least")
    parser.add_argument("--all", action="store_true", help="measure every depth of the path")
    parser.add_argument("--json", default="", metavar="FILE")
    options = parser.parse_args(arguments)
    keep_freed_memory()  # As `training.run` does.

    if options.variants is not None and OURS not in options.variants:
        parser.error(f"--variants needs {OURS}, which the others are measured against")
    machine = describe_machine()
    path = growth_path(options.last)
    capacities = capacities_along(path)
    bench = Bench(
        options.batch_size,
        options.steps,
        options.family,
        options.convolution,
        options.dtype,
        options.variants,
    )
    chosen = choose_samples(capacities, len(path) if options.all else options.samples)
    measured = []
    for position in chosen:
        measured.append(
            measure_depth(
                bench, path[position], capacities[position], options.steps, options.repeats
            )
        )
        print(f"measured {format_depths(path[position])}", file=sys.stderr, flush=True)
    count_compilations(bench, path, capacities)
    summary = summarise(measured, chosen, len(path))
    ours = bench.programs[OURS]
    summary["compilations"] = ours.counts["train"]
    summary["compile_seconds"][OURS] = ours.seconds
    print_report(measured, summary, path, options)
    print_machine(machine)
    write_json(
        options.json,
        {"options": vars(options), "machine": machine, "depths": measured, "summary": summary},
    )


def summarise(
    measured: Sequence[dict[str, Any]], chosen: Sequence[int], length: int
) -> dict[str, Any]:
    """Averages over the path, every depth with the same weight, linear between samples."""

    def along(field: str, name: str) -> np.ndarray:
        return np.interp(np.arange(length), chosen, [m[field][name] for m in measured])

    rivals = list(measured[0]["ratio"])
    step = {name: along("milliseconds", name) for name in (OURS, *rivals)}
    return {
        "mean_ratio": {name: mean(along("ratio", name).tolist()) for name in rivals},
        "ratio_of_sums": {name: float(step[OURS].sum() / step[name].sum()) for name in rivals},
        # A capacity's program is compiled at the first depth that has it.
        "compile_seconds": {
            name: float(along("compile_seconds", name).sum())
            if name in FOR_EACH_DEPTH
            else sum(m["compile_seconds"][name] for m in measured)
            for name in rivals
        },
    }


def print_report(
    measured: Sequence[dict[str, Any]],
    summary: dict[str, Any],
    path: Sequence[Depths],
    options: argparse.Namespace,
) -> None:
    """Prints the tables."""
    rivals = list(summary["mean_ratio"])
    print(
        f"\n{options.family}, batch {options.batch_size} of 32x32x1, {options.dtype}, SGD with"
        f" momentum, convolutions {options.convolution}; a step in milliseconds\n"
    )
    print_table(
        ["depths", "capacity", OURS, *rivals, *(f"{OURS}/{name}" for name in rivals)],
        [
            [
                format_depths(m["depths"]),
                format_depths(m["capacities"]),
                *m["milliseconds"].values(),
                *m["ratio"].values(),
            ]
            for m in measured
        ],
    )
    print(
        "\npadded: this package's step. exact: the same scanned at exact depth. cond: scanned over"
        "\nall slots of the capacity, each under a condition. unrolled: the same blocks in a Python"
        "\nloop. flax: the same from nn.Conv and nn.BatchNorm. Ratios: medians of rounds.\n"
    )
    ends = f"{format_depths(path[0])} to {format_depths(path[-1])}"
    print(f"Over the {len(path)} depths from {ends}:")
    print_table(
        ["step", "padded's mean ratio to it", "of summed steps", "compilations", "seconds"],
        [
            [OURS, 1.0, 1.0, summary["compilations"], summary["compile_seconds"][OURS]],
            *(
                [
                    name,
                    summary["mean_ratio"][name],
                    summary["ratio_of_sums"][name],
                    len(path) if name in FOR_EACH_DEPTH else summary["compilations"],
                    summary["compile_seconds"][name],
                ]
                for name in rivals
            ),
        ],
    )
    print("(seconds of what is compiled for each depth interpolated between the measured depths)")


if __name__ == "__main__":
    main()
