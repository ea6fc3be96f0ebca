"""What each of several processes may use: a part of the processor's cores, or a GPU.

Found without JAX, which would take the devices for this process.
"""

import contextlib
import dataclasses
import os
import subprocess
from collections.abc import Iterator, Mapping

from autogrow_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Slot:
    """A place for one process.

    Attributes:
      environment: variables to set for it.
      cores: indices of the cores it may use; empty for all.
    """

    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    cores: frozenset[int] = frozenset()

    @contextlib.contextmanager
    def cores_for_children(self) -> Iterator[None]:
        """Processes started within it have this slot's cores."""
        if not self.cores:
            yield
            return
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self.cores)
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)


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
        return [Slot(_gpu_environment(gpus, n, num_workers)) for n in range(num_workers)]
    if not hasattr(os, "sched_getaffinity"):
        return [Slot()] * num_workers
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < num_workers:
        return [Slot(cores=frozenset({cores[n % len(cores)]})) for n in range(num_workers)]
    return [Slot(cores=frozenset(cores[n::num_workers])) for n in range(num_workers)]


def _gpu_environment(gpus: list[str], number: int, num_workers: int) -> dict[str, str]:
    environment = {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]}
    per_gpu = -(-num_workers // len(gpus))
    if per_gpu > 1 and "XLA_PYTHON_CLIENT_MEM_FRACTION" not in os.environ:
        # JAX takes three quarters of a GPU's memory at once unless told otherwise.
        environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 / per_gpu:.2f}"
    return environment


def _find_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls each GPU there is for this process."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms and not {"cuda", "gpu"} & set(platforms.split(",")):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip()]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    return [str(number) for number in range(len(lines))]
