"""Experimental: several processes that train one net, on one or many machines, by JAX's runtime.

Every process runs the same program in the same order. What only one can do (files, the terminal),
or might do differently (clocks), process 0 does, the first, and tells the others.
"""

import itertools
import json
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax

# What jax.distributed keeps has no public name; Orbax reads it there too. A cluster is looked for
# before anything is begun, as one process needs no coordinator, whose port it would hold.
from jax._src import clusters, distributed

from autogrow_jax.errors import UserError

# A process that was not heard of for so long is dead, and the others end.
_HEARTBEAT = 30
# So long processes wait for the last to start, as images may have to be pulled; and to end.
_START, _END = 600, 60
# And so long for the last to have compiled a program, or for the first to have written a file.
_LATEST = 3600
# Between two looks for a signal while the first is waited for.
_PATIENCE = 2
# Of what the first told, so much is kept for those who have not read it: no one is further behind.
_KEPT = 64


def count() -> int:
    """The number of processes of the run."""
    return distributed.global_state.num_processes


def index() -> int:
    """The place of this process among them."""
    return distributed.global_state.process_id


def is_first() -> bool:
    """Whether this process is the one that writes and tells."""
    return index() == 0


def join(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Joins the processes of a run, before JAX looks for devices; does nothing for one alone.

    Args:
      coordinator: "host:port" of process 0, by which all find each other.
      processes: how many there are; 1 is alone, whatever the scheduler says.
      process: place of this one, from 0. What is None is asked of SLURM, Open MPI, Kubernetes or a
        TPU pod, if this process was started by one as one of several.

    Raises:
      UserError: what is given is not enough, or the others could not be found.
    """
    given = {"--coordinator": coordinator, "--num_processes": processes, "--process_id": process}
    if processes == 1 or distributed.global_state.client is not None:
        return
    found = _find_cluster()
    lacking = [name for name, value in given.items() if value is None]
    if found is None:
        if len(lacking) == len(given):
            return
        if lacking:
            raise UserError(
                f"{', '.join(lacking)} is lacking, and no scheduler says it; several processes take"
                " --coordinator=HOST:PORT of process 0, --num_processes=N and --process_id=0 to N-1"
            )
    if processes is not None and (processes < 1 or not 0 <= (process or 0) < processes):
        raise UserError(
            f"--process_id is {process} and --num_processes is {processes}; the processes are"
            " numbered from 0 to one less than there are"
        )
    if coordinator is not None and not coordinator.rpartition(":")[2].isdecimal():
        raise UserError(f"--coordinator is {coordinator}; it takes HOST:PORT of process 0")
    # Only CPUs ask for it: what sends arrays between processes.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            cluster_detection_method=None if lacking else "deactivate",
            initialization_timeout=_START,
            heartbeat_timeout_seconds=_HEARTBEAT,
            shutdown_timeout_seconds=_END,
        )
        # JAX takes SIGTERM for its own use; it goes back to who had it.
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"process {process if process is not None else '?'} could not join the others"
            f" ({_first_line(error)}); is process 0 started, and its port free and open?"
        ) from None


def _find_cluster() -> Any:
    """What started this process as one of several; None where nothing did."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of Kubernetes without its package, on every pod.
        for cluster in clusters.ClusterEnv._cluster_types:
            if cluster.opt_in_only_method or not cluster.is_env_present():
                continue
            # The script of a job is no step of it: what srun has not started is alone.
            is_step = cluster.name != "slurm" or "SLURM_STEP_ID" in os.environ
            return cluster if is_step and _count_in(cluster) > 1 else None
    return None


def _count_in(cluster: Any) -> int:
    try:
        return cluster.get_process_count()
    except (KeyError, RuntimeError, ValueError):  # A pod that is no part of a job of several.
        return 1


def from_first(value: Any) -> Any:
    """What the first process gives here, in all; anything that JSON can hold, tuples as lists."""
    return first(lambda: value)


_numbers, _meetings = itertools.count(), itertools.count()


def first(work: Callable[[], Any]) -> Any:
    """Has the first process alone work; returns what it returns, or raises its UserError, in all.

    All processes call it at the same place. With one it is `work()`.
    """
    if count() == 1:
        return work()
    number, client = next(_numbers), distributed.global_state.client
    assert client is not None
    key = f"autogrow_jax/{number}"
    if not is_first():
        kind, value = json.loads(_wait_for(client, key))
        if kind == "error":
            raise UserError(value)
        return value
    try:
        value = work()
        text = json.dumps(["value", value])
    except UserError as error:
        client.key_value_set(key, json.dumps(["error", str(error)]))
        raise
    client.key_value_set(key, text)
    if number >= _KEPT:
        client.key_value_delete(f"autogrow_jax/{number - _KEPT}")
    return value


def _wait_for(client: Any, key: str) -> str:
    """The text that another process sets; for as long as it takes, as loading data may."""
    while True:
        try:
            return client.blocking_key_value_get(key, 1000 * _PATIENCE)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise


def meet() -> None:
    """Waits until all processes have come so far.

    Collectives of CPUs give up on whoever comes half a minute late, as from a slower compiler.
    """
    client = distributed.global_state.client
    if count() > 1 and client is not None:
        client.wait_at_barrier(f"autogrow_jax/meeting/{next(_meetings)}", 1000 * _LATEST)


_STOPS = "autogrow_jax/stops"
_agreed = {"to stop": False}


def anyone_stops(is_told: bool) -> bool:
    """Whether one of the processes is told to stop, the same in all: they call it together.

    What another than the first is told may be heard at the next call.
    """
    client = distributed.global_state.client
    if count() == 1 or client is None:
        return is_told
    if is_told and not is_first():
        client.key_value_set(f"{_STOPS}/{index()}", "told", allow_overwrite=True)
    stops = first(lambda: is_told or bool(client.key_value_dir_get(_STOPS)))
    _agreed["to stop"] |= stops
    return stops


def in_turn(work: Callable[[], Any]) -> Any:
    """`work()` in every process, the first before the others, who find the files that it made."""
    done: list[Any] = []
    first(lambda: done.append(work()))
    return done[0] if done else work()


def refuse(what: str) -> None:
    """Raises a UserError where there are several processes, which `what` cannot have."""
    if count() > 1:
        raise UserError(
            f"{what} takes one process, and this is one of {count()}; start it alone, or with"
            " --num_processes=1"
        )


@contextmanager
def tell_of_the_lost() -> Iterator[None]:
    """Tells in one line of a collective that failed as another process ended.

    Where all stop, they take leave of each other, as none would otherwise know why one is gone.
    """
    try:
        yield
    except KeyboardInterrupt:
        if _agreed["to stop"]:
            jax.distributed.shutdown()
        raise
    except jax.errors.JaxRuntimeError as error:
        if count() == 1:
            raise
        raise UserError(
            f"process {index()} lost another of the {count()} processes ({_first_line(error)});"
            " its own message says why. Start all of them again, and they go on from the last"
            " checkpoint"
        ) from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:300]
