"""Runs all benchmarks: half an hour on two idle CPU cores, at most ten minutes a call on a GPU.

The sizes are smaller than those each benchmark has by itself; `python -m benchmarks.NAME --help`
says which those are.

python -m benchmarks [--list] [--quick] [--only NAME ...] [--data-dir DIR] [--json DIR]
"""

import argparse
import importlib.util
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.alone import find_machine, is_cpu

_ROOT = Path(__file__).parents[1]


class Benchmark(NamedTuple):
    """What a benchmark is called with; several calls, where one would take over ten minutes.

    Attributes:
      summary: what it answers.
      cpu: arguments on two CPU cores.
      accelerator: on anything else JAX finds; none where it asks about CPUs only.
      quick: to see that it runs, in a minute or two; not to believe its figures.
      needs_pytorch: whether it is nothing without.
      reads_data: whether it takes `--data-dir`.
    """

    summary: str
    cpu: tuple[str, ...]
    accelerator: tuple[str, ...]
    quick: str
    needs_pytorch: bool = False
    reads_data: bool = False


BENCHMARKS = {
    "against_pytorch": Benchmark(
        "steps of training and evaluation against PyTorch's, and the share of the roofline",
        ("--depths 3 20 --rounds 3 --limit 10",),
        tuple(
            f"--families {family} --dtypes {dtype} --depths 3 20 --steps 20 --limit 10"
            " --compile default reduce-overhead"
            for dtype in ("float32", "bfloat16")
            for family in ("plain3", "basic3")
        ),
        "--families plain3 --depths 1 --batch 16 --rounds 3 --limit 2 --compile",
        needs_pytorch=True,
    ),
    "growth_phase": Benchmark(
        "a whole growth phase: what is not a steady step",
        ("--last 8 --minutes 1",),
        # "ours" is "exact" by itself on a GPU.
        ("", "--runs ours exact --last 8 --set growth.programs=shared"),
        "--last 2 --batch 16 --steps-per-epoch 4 --runs ours unrolled",
    ),
    "scaling": Benchmark(
        "step, compilation, memory and checkpoints from 3 to 300 blocks",
        ("--depths 1 10 30 100",),
        ("", "--dtype bfloat16"),
        "--depths 1 5 --batch 16 --steps 1 --families plain3",
    ),
    "by_hand": Benchmark(
        "init, growth and the first step after it by hand in a fresh process, beside plain Flax",
        ("",),
        ("",),
        "--growths 1 --batch 8",
    ),
    "compilation_cache": Benchmark(
        "how much of its compile time a second start saves",
        ("",),
        (),
        "--starts 2 --fraction 0.2",
    ),
    "inputs": Benchmark(
        "images a second from each source",
        ("",),
        ("",),
        "--images 2000 --files 200 --repeats 2 --limit 2",
        reads_data=True,
    ),
    "stream": Benchmark(
        "images a second a core of streams, beside torchvision's loader, and their memory",
        ("--images 2 --rounds 2",),
        ("--images 2 --rounds 2",),
        "--classes 10 --images 40 --rounds 1 --workers 0",
    ),
    "depth_as_data": Benchmark(
        "one program for all depths against one for each, and against a condition at each slot",
        ("--last 9 --repeats 3", "--last 9 --repeats 3 --convolution native"),
        tuple(
            f"--family {family} --dtype {dtype} --samples 8 --steps 20 --variants padded exact cond"
            for dtype in ("float32", "bfloat16")
            for family in ("plain3", "basic3")
        ),
        "--last 5 --batch-size 16 --steps 1 --repeats 3 --samples 4",
    ),
    "convolution": Benchmark(
        "whether convolutions in canonical form are still needed",
        ("--shapes 4 --repeats 3 --limit 1",),
        (),
        "--repeats 3 --limit 1 --shapes 2",
    ),
    "formulations": Benchmark(
        "other ways to write a convolution and its kernel's gradient",
        ("--repeats 3 --limit 6",),
        (),
        "--repeats 1 --batch 8",
    ),
    "xla_flags": Benchmark(
        "a training step under each of XLA's flags",
        ("--rounds 2 --steps 8",),
        tuple(
            f"--family {family} --programs {program} --rounds 2 --steps 50"
            for family in ("plain3", "basic3")
            for program in ("padded", "exact")
        ),
        "--rounds 1 --steps 1 --batch 16 --depth 1",
    ),
}


def choose_commands(name: str, options: argparse.Namespace, on_cpu: bool) -> list[list[str]]:
    """The command lines of a benchmark, one after the other.

    Args:
      name: of `BENCHMARKS`.
      options: of this program.
      on_cpu: whether there is nothing but a CPU.
    """
    chosen = BENCHMARKS[name]
    sizes = chosen.cpu if on_cpu else chosen.accelerator
    if options.quick:
        sizes = (chosen.quick,)
    commands = []
    for number, arguments in enumerate(sizes):
        command = [sys.executable, "-m", f"benchmarks.{name}", *arguments.split()]
        if chosen.reads_data and options.data_dir:
            command += ["--data-dir", str(Path(options.data_dir).absolute())]
        if options.json:
            file = f"{name}.json" if len(sizes) == 1 else f"{name}_{number + 1}.json"
            command += ["--json", str(Path(options.json).absolute() / file)]
        commands.append(command)
    return commands


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the number of benchmarks that failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--list", action="store_true", help="name them and run none")
    parser.add_argument("--quick", action="store_true", help="only see that they run")
    parser.add_argument("--only", nargs="+", choices=list(BENCHMARKS), metavar="NAME")
    parser.add_argument("--data-dir", default="", help="of official files, for `inputs`")
    parser.add_argument("--json", default="", metavar="DIR", help="folder for a file of each")
    options = parser.parse_args(arguments)
    names = options.only or list(BENCHMARKS)
    if options.list:
        for name in names:
            print(f"python -m benchmarks.{name}\n    {BENCHMARKS[name].summary}")
        return 0
    if options.json:
        Path(options.json).mkdir(parents=True, exist_ok=True)
    has_pytorch = importlib.util.find_spec("torch") is not None
    on_cpu = is_cpu(find_machine())
    failed = []
    for name in names:
        for command in choose_commands(name, options, on_cpu):
            print(f"\n== python {' '.join(command[1:])}", flush=True)
            if BENCHMARKS[name].needs_pytorch and not has_pytorch:
                print("left out, as PyTorch is not installed: pip install '.[bench]' brings it")
                continue
            start = time.perf_counter()
            # A process each, so that no one holds memory or a device that the next one needs.
            if subprocess.run(command, cwd=_ROOT).returncode:
                failed.append(name)
            print(f"({time.perf_counter() - start:.0f} s)", flush=True)
    if failed:
        print(f"\nfailed: {', '.join(failed)}", file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
