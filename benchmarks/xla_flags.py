"""XLA's own ways to be faster: a training step under each of its flags, by processor.

XLA reads its flags once, so that each measurement is a process of its own; they take turns. Flags
that this jaxlib does not know are said to be unknown.

python -m benchmarks.xla_flags [--family plain3] [--depth 3] [--batch 128] [--steps 5]
    [--programs padded exact] [--rounds 3] [--json FILE]
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any
from unittest import mock

from benchmarks.alone import find_machine, is_cpu, run_alone
from benchmarks.measure import print_machine, print_table, write_json
from benchmarks.scaling import measure

_LIBRARIES = ",".join(
    f"LIBRARY_FUSION_TYPE_{name}"
    for name in ("INDIVIDUAL_CONVOLUTION", "INDIVIDUAL_DOT", "DOT", "ELTWISE", "REDUCE")
)
# What each is for: libraries that XLA may call instead of its own code, and how that is compiled.
CPU_FLAGS = {
    "none": "",
    "oneDNN custom calls": "--xla_cpu_experimental_onednn_custom_call=true",
    "oneDNN fusions": f"--xla_cpu_experimental_onednn_fusion_type={_LIBRARIES}",
    "YNNPACK, all kinds": f"--xla_cpu_experimental_ynn_fusion_type={_LIBRARIES}",
    "no YNNPACK": "--xla_cpu_experimental_ynn_fusion_type=",
    "XNNPACK": "--xla_cpu_use_xnnpack=true",
    "fast math": "--xla_cpu_enable_fast_math=true",
    "vectors of 512 bits": "--xla_cpu_prefer_vector_width=512",
    "concurrent scheduler": "--xla_cpu_enable_concurrency_optimized_scheduler=true",
    "one thread of Eigen's": "--xla_cpu_multi_thread_eigen=false",
}
# Between the turns of a loop whose number is data, the host reads from the device whether there is
# another, unless the loop is part of a CUDA graph, which takes all pieces of it to be of kinds that
# are captured. By default ordinary convolutions are not.
GPU_FLAGS = {
    "none": "",
    "loops in CUDA graphs": "--xla_gpu_enable_command_buffer=+WHILE,+CONDITIONAL,+CONVOLUTION",
    "loops in CUDA graphs of any size": "--xla_gpu_enable_command_buffer=+WHILE,+CONDITIONAL,"
    "+CONVOLUTION --xla_gpu_graph_min_graph_size=1",
    "no CUDA graphs": "--xla_gpu_enable_command_buffer=",
    "loops unrolled": "--xla_gpu_enable_while_loop_unrolling=WHILE_LOOP_UNROLLING_AUTO_UNROLL",
    "latency-hiding scheduler": "--xla_gpu_enable_latency_hiding_scheduler=true",
}
PROGRAMS = ("padded", "exact")

# A flag's name and a program's.
Cell = tuple[str, str]
# Of each cell: its records, and for each one that of the first cell measured beside it.
Records = dict[Cell, list[tuple[dict[str, Any], dict[str, Any]]]]


def is_known(flags: str) -> bool:
    """Whether jaxlib starts with these; an unknown one ends the process."""
    command = [sys.executable, "-c", "import jax; jax.devices()"]
    environment = os.environ | {"XLA_FLAGS": flags}
    return subprocess.run(command, env=environment, capture_output=True).returncode == 0


def measure_rounds(flags: Mapping[str, str], options: argparse.Namespace) -> Records:
    """Pairs of records of `scaling.measure`, of a cell and of the first one beside it, by round.

    A machine's speed changes within a round, so the first is measured again after every second
    cell. What failed in one round is left out.
    """
    known = [name for name, value in flags.items() if is_known(value)]
    base, *others = [(name, program) for name in known for program in options.programs]
    found: Records = {cell: [] for cell in (base, *others)}

    for number in range(options.rounds):
        order = others if number % 2 == 0 else others[::-1]
        for first in range(0, max(len(order), 1), 2):
            beside = _measure(flags[base[0]], options, base[1])
            if beside is None:
                raise RuntimeError("the step does not run without flags")
            found[base].append((beside, beside))
            for cell in order[first : first + 2]:
                record = _measure(flags[cell[0]], options, cell[1])
                if record is not None:
                    found[cell].append((record, beside))
                print(f"measured {', '.join(cell)}", file=sys.stderr, flush=True)
    return {
        cell: pairs for cell, pairs in found.items() if cell == base or len(pairs) == options.rounds
    }


def _measure(flags: str, options: argparse.Namespace, program: str) -> dict[str, Any] | None:
    try:
        with mock.patch.dict(os.environ, {"XLA_FLAGS": flags}):
            return run_alone(
                measure,
                family=options.family,
                depth=options.depth,
                batch_size=options.batch,
                steps=options.steps,
                convolution="xla",
                exact=program == "exact",
            )
    except RuntimeError as error:
        print(f"does not run: {error}", file=sys.stderr)
        return None


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints; `arguments` default to the process's."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.xla_flags")
    parser.add_argument("--family", choices=("plain3", "basic3"), default="plain3")
    parser.add_argument("--depth", type=int, default=3, help="of each stage")
    parser.add_argument("--batch", type=int, default=128, help="images of a step")
    parser.add_argument("--steps", type=int, default=5, help="of a measurement")
    parser.add_argument(
        "--programs",
        nargs="+",
        choices=PROGRAMS,
        default=["padded"],
        help="one for all depths up to a capacity, one for each depth",
    )
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each flag")
    parser.add_argument("--json", default="", metavar="FILE")
    options = parser.parse_args(arguments)

    machine = find_machine()
    flags = CPU_FLAGS if is_cpu(machine) else GPU_FLAGS
    found = measure_rounds(flags, options)
    depths = "-".join([str(options.depth)] * 3)
    print(f"\n{options.family} {depths}, batch {options.batch} of 32x32x1; a training step\n")
    print_table(
        ["flag", "program", "milliseconds", "as a multiple of the first", "compilation s"],
        [
            [
                name,
                program,
                1000 * median(one["step"] for one, _ in pairs),
                median(one["step"] / beside["step"] for one, beside in pairs),
                median(one["compile"] for one, _ in pairs),
            ]
            for (name, program), pairs in found.items()
        ],
    )
    print("\n" + "\n".join(f"{name}: {value}" for name, value in flags.items() if value))
    measured = {name for name, _ in found}
    left_out = [name for name in flags if name not in measured]
    if left_out:
        print(f"\nunknown here, or not running: {', '.join(left_out)}")
    print()
    print_machine(machine)
    rounds = {", ".join(cell): pairs for cell, pairs in found.items()}
    write_json(options.json, {"options": vars(options), "machine": machine, "rounds": rounds})


if __name__ == "__main__":
    main()
