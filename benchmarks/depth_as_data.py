"""What depth as data costs and saves: the padded training step against the unrolled network's.

The claim: a run of plain3 from 1-1-1 to 20-20-20 compiles the training step at most 6 times, and
on a CPU, averaged over that run, a step costs at most 1.15 times that of the unrolled network of
the same depth. The padded network takes a measurement's steps in one dispatch, so --steps 1 is the
hardest on it; a run takes about half a second's worth.

python -m benchmarks.depth_as_data [--last 20] [--batch-size 128] [--steps 1] [--repeats 5]
                                   [--samples 9 | --all] [--json FILE]
"""

import argparse
import sys
from collections.abc import Sequence
from statistics import mean, median
from typing import Any

import numpy as np

from autogrow_jax.growth import periodic, replay
from autogrow_jax.training.state import TrainState, choose_capacities
from benchmarks.measure import (
    describe_machine,
    print_machine,
    print_table,
    ratio,
    take_turns,
    write_json,
)
from benchmarks.steps import FLAX, OURS, SAME_BLOCKS, Bench, Depths, Turns


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
    padded = bench.padded_state(exact, capacities)
    variants = {
        OURS: Turns(
            lambda state, count: bench.train_padded(state, depths, capacities, count), padded, steps
        )
    }
    compile_seconds = {}
    for name in (SAME_BLOCKS, FLAX):
        state = bench.unrolled_state(exact, depths)
        variants[name] = Turns(bench.make_unrolled(depths, name), state, steps)
    losses = {}
    for name, train in variants.items():
        before = bench.programs[name].seconds
        # The second loss is that after an update, so it holds the gradients to one another.
        losses[name] = [float(train(1).loss) / bench.batch_size for _ in range(2)]
        compile_seconds[name] = bench.programs[name].seconds - before
    if not np.allclose(list(losses.values()), losses[OURS], rtol=1e-3):
        raise AssertionError(f"the variants compute different losses at {depths}: {losses}")
    times = take_turns(variants, repeats)
    return {
        "depths": depths,
        "capacities": capacities,
        "milliseconds": {name: 1000 * median(t) / steps for name, t in times.items()},
        "ratio": {name: ratio(times, OURS, name) for name in (SAME_BLOCKS, FLAX)},
        "compile_seconds": compile_seconds,
        "rounds": {name: [1000 * t / steps for t in all_t] for name, all_t in times.items()},
    }


def count_compilations(bench: Bench, path: Sequence[Depths], capacities: Sequence[Depths]) -> None:
    """Calls the padded step at every depth of the path, for no step: all a run compiles."""
    states: dict[Depths, TrainState] = {}
    for depths, room in zip(path, capacities, strict=True):
        if room not in states:
            states = {room: bench.exact_state(room)}
        states[room], _ = bench.train_padded(states[room], depths, room, 0)


def format_depths(depths: Depths) -> str:
    return "-".join(map(str, depths))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints; `arguments` default to the process's."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.depth_as_data")
    parser.add_argument("--last", type=int, default=20, help="depth of each stage at the end")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=1, help="training steps a measurement")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each variant")
    parser.add_argument("--samples", type=int, default=9, help="depths measured, at least")
    parser.add_argument("--all", action="store_true", help="measure every depth of the path")
    parser.add_argument("--json", default="", metavar="FILE")
    options = parser.parse_args(arguments)

    machine = describe_machine()
    path = growth_path(options.last)
    capacities = capacities_along(path)
    bench = Bench(options.batch_size, options.steps)
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
    print_report(measured, summary, path, options.batch_size)
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

    rivals = (SAME_BLOCKS, FLAX)
    step = {name: along("milliseconds", name) for name in (OURS, *rivals)}
    return {
        "mean_ratio": {name: mean(along("ratio", name).tolist()) for name in rivals},
        "ratio_of_sums": {name: float(step[OURS].sum() / step[name].sum()) for name in rivals},
        "compile_seconds": {name: float(along("compile_seconds", name).sum()) for name in rivals},
    }


def print_report(
    measured: Sequence[dict[str, Any]],
    summary: dict[str, Any],
    path: Sequence[Depths],
    batch_size: int,
) -> None:
    """Prints the tables."""
    print(f"\nplain3, batch {batch_size} of 32x32x1, SGD with momentum; a step in milliseconds\n")
    print_table(
        ["depths", "capacity", "padded", "unrolled", "flax", "padded/unrolled", "padded/flax"],
        [
            [
                format_depths(m["depths"]),
                format_depths(m["capacities"]),
                *m["milliseconds"].values(),
                m["ratio"][SAME_BLOCKS],
                m["ratio"][FLAX],
            ]
            for m in measured
        ],
    )
    print(
        "\npadded: this package's step. unrolled: the same blocks in a Python loop, exact depth."
        "\nflax: the same from nn.Conv and nn.BatchNorm. Ratios: medians of rounds.\n"
    )
    ends = f"{format_depths(path[0])} to {format_depths(path[-1])}"
    print(f"Over the {len(path)} depths from {ends}:")
    print_table(
        ["padded against", "mean ratio", "ratio of summed steps", "compilations", "seconds"],
        [
            ["padded", 1.0, 1.0, summary["compilations"], summary["compile_seconds"][OURS]],
            *(
                [
                    name,
                    summary["mean_ratio"][name],
                    summary["ratio_of_sums"][name],
                    len(path),
                    summary["compile_seconds"][name],
                ]
                for name in (SAME_BLOCKS, FLAX)
            ),
        ],
    )
    print("(compilation of the unrolled ones interpolated between the measured depths)")


if __name__ == "__main__":
    main()
