"""XLA's own ways to be faster on a CPU: a training step under each of its flags.

XLA reads its flags once, so that each measurement is a process of its own; they take turns. Flags
that this jaxlib does not know are said to be unknown.

python -m benchmarks.xla_flags [--family plain3] [--depth 3] [--batch 128] [--steps 5]
    [--rounds 3] [--json FILE]
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from statistics import median
from typing import Any
from unittest import mock

from benchmarks.alone import find_machine, run_alone
from benchmarks.measure import print_machine, print_table, write_json
from benchmarks.scaling import measure

_LIBRARIES = ",".join(
    f"LIBRARY_FUSION_TYPE_{name}"
    for name in ("INDIVIDUAL_CONVOLUTION", "INDIVIDUAL_DOT", "DOT", "ELTWISE", "REDUCE")
)
# What each is for: libraries that XLA may call instead of its own code, and how that is compiled.
FLAGS = {
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


def is_known(flags: str) -> bool:
    """Whether jaxlib starts with these; an unknown one ends the process."""
    command = [sys.executable, "-c", "import jax; jax.devices()"]
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    return subprocess.run(command, env=environment, capture_output=True).returncode == 0


def measure_rounds(options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Records of `scaling.measure` under each flag, entry i from round i."""
    known = [name for name, flags in FLAGS.items() if is_known(flags)]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in known}
    for number in range(options.rounds):
        for name in known[:: 1 if number % 2 == 0 else -1]:
            with mock.patch.dict(os.environ, {"XLA_FLAGS": FLAGS[name], "JAX_PLATFORMS": "cpu"}):
                record = _measure(options)
            if record is not None:
                found[name].append(record)
            print(f"round {number + 1}: measured {name}", file=sys.stderr, flush=True)
    return {name: records for name, records in found.items() if len(records) == options.rounds}


def _measure(options: argparse.Namespace) -> dict[str, Any] | None:
    try:
        return run_alone(
            measure,
            family=options.family,
            depth=options.depth,
            batch_size=options.batch,
            steps=options.steps,
            convolution="xla",
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
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each flag")
    parser.add_argument("--json", default="", metavar="FILE")
    options = parser.parse_args(arguments)

    machine = find_machine()
    found = measure_rounds(options)
    base = found["none"]
    depths = "-".join([str(options.depth)] * 3)
    print(f"\n{options.family} {depths}, batch {options.batch} of 32x32x1; a training step\n")
    print_table(
        ["flag", "milliseconds", "as a multiple of none's", "compilation s"],
        [
            [
                name,
                1000 * median(one["step"] for one in records),
                median(a["step"] / b["step"] for a, b in zip(records, base, strict=True)),
                median(one["compile"] for one in records),
            ]
            for name, records in found.items()
        ],
    )
    print("\n" + "\n".join(f"{name}: {flags}" for name, flags in FLAGS.items() if flags))
    left_out = [name for name in FLAGS if name not in found]
    if left_out:
        print(f"\nunknown here, or not running: {', '.join(left_out)}")
    print()
    print_machine(machine)
    write_json(options.json, {"options": vars(options), "machine": machine, "rounds": found})


if __name__ == "__main__":
    main()
