"""How much of the compile time a second start saves that finds the first one's programs on disk.

Each start is a process of its own and runs the default config, with so few epochs that little but
compilation is left: the programs are those of the whole run. All are compiled in the foreground.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from autogrow_jax.reporting import QuietReporter
from autogrow_jax.settings import flatten
from autogrow_jax.settings_files import DEFAULT_CONFIG, load_config
from autogrow_jax.training import run
from benchmarks.measure import describe_machine, print_machine, print_table, write_json

_SHORT = {
    "growth.compile_ahead": False,
    "growth.interval": 1,
    "growth.max_epochs": 2,
    "finetune.epochs": 1,
}
# JAX's own account, of all it compiles: what a run calls by name and what is compiled beside.
_PARTS = {
    "trace": "/jax/core/compile/jaxpr_trace_duration",
    "lower": "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "compile or read": "/jax/core/compile/backend_compile_duration",
    "read": "/jax/compilation_cache/cache_retrieval_time_sec",
}


def start(root: str, workdir: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Runs in this process; returns seconds of each kind."""
    spent: Counter[str] = Counter()
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: spent.update({event: seconds})
    )
    config = flatten(load_config(DEFAULT_CONFIG)) | _SHORT | {"compilation_cache": root} | changes
    result = run(config, workdir, reporter=QuietReporter())
    return {
        "seconds": result.seconds,
        "programs": sum(result.more["compilations_by_program"].values()),
        "parts": {name: spent[event] for name, event in _PARTS.items()},
    }


def start_process(root: Path, workdir: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """The same in a new process on the CPU, with no other cache than `root`."""
    code = "import sys, json; from benchmarks.compilation_cache import start\n"
    code += "print(json.dumps(start(*json.loads(sys.argv[1]))))"
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    arguments = json.dumps([str(root), str(workdir), changes])
    command = [sys.executable, "-c", code, arguments]
    ended = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(ended.stdout.splitlines()[-1])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints; `arguments` default to the process's."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compilation_cache")
    parser.add_argument("--starts", type=int, default=3, help="the first finds nothing on disk")
    parser.add_argument("--fraction", type=float, default=1.0, help="of the images")
    parser.add_argument("--json", default="", metavar="FILE")
    options = parser.parse_args(arguments)

    machine = describe_machine()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "compiled"
        starts = []
        for number in range(options.starts):
            workdir = Path(folder) / f"run{number}"
            starts.append(start_process(root, workdir, {"data.fraction": options.fraction}))
            print(f"measured start {number + 1}", file=sys.stderr, flush=True)
        sizes = [file.stat().st_size for file in root.glob("*/*-cache")]
    first = starts[0]["seconds"]["compile"]
    ratios = [measured["seconds"]["compile"] / first for measured in starts]
    print_report(starts, ratios)
    print(f"\nPrograms on disk: {len(sizes)}, {sum(sizes) / 1e6:.1f} MB.")
    print_machine(machine)
    write_json(
        options.json,
        {
            "options": vars(options),
            "machine": machine,
            "starts": starts,
            "ratios": ratios,
            "bytes": sizes,
        },
    )


def print_report(starts: Sequence[dict[str, Any]], ratios: Sequence[float]) -> None:
    """Prints the table."""
    print("\nplain3 on digits; seconds\n")
    print_table(
        ["start", "compile", "over the first", "run", *_PARTS],
        [
            [
                str(number + 1),
                measured["seconds"]["compile"],
                ratio,
                measured["seconds"]["total"],
                *measured["parts"].values(),
            ]
            for number, (measured, ratio) in enumerate(zip(starts, ratios, strict=True))
        ],
    )
    print(
        "\ncompile: result.json's, what the run's own programs took. The columns after run are"
        "\nJAX's account of everything; read is the part of the one before it that read the disk."
    )


if __name__ == "__main__":
    main()
