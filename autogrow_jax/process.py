"""This process and its machine: memory, background threads, the processor's features, paths.

Memory: XLA's CPU client asks for the memory of a program's temporaries at each call and frees it
after it. glibc returns such large pieces to the system at once, so that every step touches fresh
pages: at 3-3-3 and 64 images, 93 MB in 23,000 page faults, 50 of 160 ms of processor time.

Threads: XLA's compiler does not survive the end of the interpreter, so `concurrent.futures` waits
for a program that is under way then. `command_line.leave` ends a process without waiting.
"""

import ctypes
import hashlib
import logging
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any
from weakref import WeakSet

from autogrow_jax.errors import UserError, show

try:
    import resource
except ImportError:  # Not on Windows.
    resource = None  # type: ignore[assignment]


def user_path(text: str | os.PathLike[str]) -> Path:
    """Makes a path of what a user wrote, ~ being a home; UserError where no system can have it."""
    path = Path(text)
    try:
        path = path.expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError):  # It can be made, or its lack be told.
        pass
    except (OSError, ValueError, RuntimeError) as error:  # Too long, a NUL, ~ of nobody.
        why = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{show(str(text))} cannot be a path here ({why}); give another") from None
    return path


def machine_key() -> str:
    """A name for this kind of machine: jaxlib's version and a hash of the processor's features."""
    features = hashlib.sha256(f"{platform.machine()} {_cpu_features()}".encode()).hexdigest()[:12]
    return f"jaxlib-{metadata.version('jaxlib')}-{features}"


def cores() -> int:
    """How many cores this process may use."""
    mine = getattr(os, "sched_getaffinity", None)
    return len(mine(0)) if mine else os.cpu_count() or 1


def processor_name() -> str:
    """What the processor calls itself."""
    names = [line.partition(":")[2].strip() for line in _cpu_lines("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _cpu_features() -> str:
    told = _cpu_lines("model name", "flags", "Features")
    return "\n".join(sorted(set(told))) or platform.processor()


@cache
def _cpu_lines(*names: str) -> list[str]:
    """Lines that Linux has on all processors; none on another system."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    return [line for line in lines if line.split("\t")[0] in names]


def keep_freed_memory() -> bool:
    """Has this process keep memory it freed for the next step; False where there is no glibc.

    Only the main thread's part of the heap holds pieces of any size, so programs run in the thread
    that calls them: JAX's asynchronous dispatch on CPUs is turned off. (One heap for all threads
    serves as well, but compilation, which allocates in many, then takes half as long again.) JAX
    heeds that until it has looked for its devices. Where it has, as in a notebook with an array
    from before, its threads go on, and keep pieces of up to 64 MB; one heap is no help then.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    import jax  # Here, not at the top: commands that only read results do without it.

    mallopt = ctypes.CDLL(None).mallopt
    trim_threshold, mmap_max, no_limit = -1, -4, -1  # See malloc.h.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    return all([mallopt(mmap_max, 0) == 1, mallopt(trim_threshold, no_limit) == 1])


_IMPORTED = time.perf_counter()
_USED = time.process_time()  # Of the processor, until then.
# Whether it had waited for children before, as the shell that it was: in `bash -c "a && train"` the
# shell becomes the last command, and the kernel counts that one's time from the shell's start.
_WAS_A_SHELL = resource is not None and resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss > 0


def process_start() -> float:
    """The `time.perf_counter()` of this process's start; that of this import where nobody knows."""
    if _WAS_A_SHELL:  # Nobody knows until when; Python is taken to have waited for nothing since.
        return _IMPORTED - _USED
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):  # Not Linux.
        return _IMPORTED
    return min(_IMPORTED, time.perf_counter() - age)


_submitted: WeakSet[Future[Any]] = WeakSet()


def submit(executor: Executor, work: Callable[[], Any]) -> Future[Any]:
    """Has an executor run `work()`, which `leave` will not wait for."""
    future = executor.submit(work)
    _submitted.add(future)
    return future


def is_one_of_several() -> bool:
    """Whether others wait for this process: JAX's end of it would wait for them."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def is_busy() -> bool:
    """Whether anything that was submitted runs now."""
    return any(future.running() for future in list(_submitted))


@contextmanager
def quiet(logger: str, least: int = logging.ERROR) -> Iterator[None]:
    """Keeps a logger, by its name, from telling what is below a level, by default no error."""
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(least)
    try:
        yield
    finally:
        log.setLevel(level)


@contextmanager
def skip_closed_loops() -> Iterator[None]:
    """Keeps Python from printing an error for each array that Orbax could not read or write.

    The first error is raised and says enough; it closes the loop that all others report to, from
    tensorstore's threads and within moments.
    """
    previous, skipped = sys.unraisablehook, 0

    def skip(report: Any) -> None:
        nonlocal skipped
        if any(part in str(report.exc_value) for part in ("loop is closed", "array index:")):
            skipped += 1
        else:
            previous(report)

    sys.unraisablehook = skip
    try:
        with quiet("asyncio", logging.CRITICAL):
            yield
    except Exception:
        seen = -1
        while seen != skipped:
            seen = skipped
            time.sleep(0.1)
        raise
    finally:
        sys.unraisablehook = previous
