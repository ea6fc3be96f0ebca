"""Measurements in processes of their own: nothing compiled or allocated for one is there for the
next, and each has a peak of memory that is its own.

The process that asks never touches a device, so an accelerator is free for the one that measures.
"""

import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from autogrow_jax.process import keep_freed_memory
from benchmarks.measure import describe_machine

Record = dict[str, Any]
# A folder of compiled programs would make every start but the first a warm one.
_CACHE_VARIABLE = "JAX_COMPILATION_CACHE_DIR"


def run_alone(function: Callable[..., Record], **arguments: Any) -> Record:
    """Calls `function(**arguments)` in a new process.

    Args:
      function: of a module's top level; takes and returns what JSON can hold.
      **arguments: its own.

    Returns:
      What it returned, with "peak_memory": see `peak_memory`.

    Raises:
      RuntimeError: when the process failed; its messages are on stderr.
    """
    module = function.__module__
    if module == "__main__":  # Started as `python -m`; the new process has to import it by name.
        module = sys.modules["__main__"].__spec__.name
    environment = {k: v for k, v in os.environ.items() if k != _CACHE_VARIABLE}
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer.json")
        call = [module, function.__name__, json.dumps(arguments), str(answer)]
        command = [sys.executable, "-m", "benchmarks.alone", *call]
        done = subprocess.run(command, env=environment, cwd=Path(__file__).parents[1])
        if done.returncode:
            raise RuntimeError(
                f"{module}.{function.__name__}({arguments}) ended with code {done.returncode}"
                + (" (killed: was there enough memory?)" if done.returncode == -9 else "")
            )
        return json.loads(answer.read_text())


def peak_memory() -> dict[str, int]:
    """The most memory this process has held so far.

    Returns:
      Bytes: "host", resident; "device", as the allocator of an accelerator counts it, 0 on a CPU.
    """
    return {"host": _peak_host(), "device": _peak_device()}


def _peak_host() -> int:
    # Linux hands the peak in getrusage on from the process that started this one.
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _peak_device() -> int:
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated()
        return 0
    if jax.default_backend() == "cpu":
        return 0
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)


def find_machine() -> Record:
    """`describe_machine`, without a device being touched by this process."""
    return run_alone(describe_machine)


def is_cpu(machine: Record) -> bool:
    """Whether JAX has nothing but the CPU there."""
    return machine["devices"][0] == "cpu"


def _answer(module: str, name: str, arguments: str, path: str) -> None:
    keep_freed_memory()  # As `training.run` does; serves whatever is compared alike.
    answer = getattr(importlib.import_module(module), name)(**json.loads(arguments))
    Path(path).write_text(json.dumps({**answer, "peak_memory": peak_memory()}))


if __name__ == "__main__":
    _answer(*sys.argv[1:])
