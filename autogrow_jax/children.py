"""Processes that this one starts: their shares of the machine, and that they end when it does."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from autogrow_jax.errors import UserError


class Slot(NamedTuple):
    """What one of several processes may use: variables that name its GPU; its cores, () for all."""

    environment: Mapping[str, str] = {}
    cores: frozenset[int] = frozenset()


def make_slots(num_workers: int) -> list[Slot]:
    """Divides this machine among processes that run at the same time.

    A single worker has everything. Several share the GPUs by turns, where there are any; on a
    machine without, each has cores of its own: XLA's threads would otherwise wait for each other.

    Raises:
      UserError: for fewer than one worker.
    """
    if num_workers < 1:
        raise UserError(f"--workers is {num_workers}; it takes a whole number of at least 1")
    if num_workers == 1:
        return [Slot()]
    gpus = _find_gpus()
    if gpus:
        environment = {}
        per_gpu = -(-num_workers // len(gpus))
        if per_gpu > 1 and "XLA_PYTHON_CLIENT_MEM_FRACTION" not in os.environ:
            # JAX takes three quarters of a GPU's memory at once unless told otherwise.
            environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 / per_gpu:.2f}"
        turns = [gpus[number % len(gpus)] for number in range(num_workers)]
        return [Slot({"CUDA_VISIBLE_DEVICES": gpu, **environment}) for gpu in turns]
    if not hasattr(os, "sched_getaffinity"):
        return [Slot()] * num_workers
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < num_workers:
        return [Slot(cores=frozenset({cores[n % len(cores)]})) for n in range(num_workers)]
    return [Slot(cores=frozenset(cores[n::num_workers])) for n in range(num_workers)]


def _find_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls each GPU of this process; JAX, if asked, would take them."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms and not {"cuda", "gpu"} & set(platforms.split(",")):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = [name.strip() for name in visible.split(",") if name.strip()]
        return [*takewhile(lambda name: not name.startswith("-"), names)]  # As CUDA reads it.
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(n) for n in range(sum(x.startswith("GPU ") for x in listed.stdout.splitlines()))]


class Child(subprocess.Popen):
    """A process with a slot of its own, which ends when this one does.

    Its command gets a further argument "--parent=FD", for `stop_with_parent`; what it prints goes
    to the end of the file `log`. `close` is to be called once it has ended.
    """

    def __init__(self, command: Sequence[str], slot: Slot, log: Path):
        child_end, self._parent_end = os.pipe()
        cores = os.sched_getaffinity(0) if slot.cores else set()
        try:
            if slot.cores:  # A process has the cores of the one that starts it.
                os.sched_setaffinity(0, slot.cores)
            with log.open("ab") as file:
                super().__init__(
                    [*command, f"--parent={child_end}"],
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env=os.environ | slot.environment,
                    pass_fds=(child_end,),
                    # Ctrl-C in the terminal reaches this process only, which then stops the others.
                    start_new_session=True,
                )
        finally:
            os.close(child_end)
            if slot.cores:
                os.sched_setaffinity(0, cores)

    def close(self) -> None:
        os.close(self._parent_end)


def stop_children(children: Sequence[Any], seconds: float) -> None:
    """Lets every process save what it has, or else kills it after so many seconds."""
    for child in children:
        child.terminate()
    deadline = time.monotonic() + seconds
    for child in children:
        try:
            child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        child.close()


def stop_with_parent(file_descriptor: int) -> None:
    """Sends this process SIGTERM once the other end of a pipe closes: its parent has died."""

    def wait() -> None:
        with suppress(OSError):
            os.read(file_descriptor, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True, name="waits for the parent's end").start()
