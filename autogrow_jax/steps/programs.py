"""Programs compiled before their first call, by who waits or by a thread; kept on disk.

JAX keeps compiled programs, so that another start does not compile them again. It keys them by the
program, the versions and the flags, but not by the features of the CPU, and the CPU's programs may
hold instructions that another machine lacks. So each kind of machine has a folder of its own. What
JAX finds damaged it warns of, and compiles. Programs read from the folder are run as they are:
whoever can write there can run code as the user.
"""

import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from autogrow_jax import hosts
from autogrow_jax.errors import UserError
from autogrow_jax.models import Network, estimate_cost
from autogrow_jax.process import machine_key, submit, user_path
from autogrow_jax.settings_table import Growth

# What a program that runs seldom is compiled with on a CPU. There LLVM's optimisation takes nearly
# all of the time, up to a second for each random draw. Level 1 takes a quarter of it and computes
# the same bits; level 0 would not: it does not fuse multiplications with additions.
_RUNS_SELDOM: dict[str, Any] = {"xla_backend_optimization_level": "1"}

# What has a GPU compute the same bits at each start: nothing that adds in any order, and no kernel
# chosen by measuring, so that there is no file of choices to keep. XLA refuses what it cannot do.
_DETERMINISTIC = {"xla_gpu_exclude_nondeterministic_ops": True, "xla_gpu_autotune_level": 0}

# Seconds between two looks for a signal while a program is compiled.
_PATIENCE = 0.5
# Of those called last: a program for each depth would fill the memory of a long run.
_MOST_KEPT = 64

# What `growth.programs` is settled to: depth is data of a program, or a part of it.
SHARED, EXACT = "shared", "exact"
# What "auto" is, by kind of device (`jax.devices()[0].device_kind`) or else platform, and SHARED on
# all others. In a loop of unknown length a GPU's host waits at every turn for a bool that says
# whether there is another, in one of known length it does not. That is read in XLA's sources; what
# `python -m benchmarks.gpu` finds to be fastest on a kind of device is to be written here.
_FASTEST = {"gpu": EXACT}
# Floating-point operations a second of slow devices of a kind on small nets.
_SLOW, _SLOW_ACCELERATOR = {"cpu": 4e9}, 1e12
# Threads that compile beside an accelerator, at most; on a CPU, which trains too, there is one.
_MOST_THREADS = 4

DEFAULT_ROOT = "~/.cache/autogrow_jax/compiled"
# Of one folder, beyond which JAX deletes what was used least recently; a run leaves a few MB on a
# CPU.
_MAX_BYTES = 2 * 2**30


def choose_folder(root: str) -> Path | None:
    """Keeps programs on disk where a run's settings say; the rest is as for `keep_in`.

    "" is `DEFAULT_ROOT`, unless JAX was told of a folder already (JAX_COMPILATION_CACHE_DIR, or an
    earlier run), which then stays, as it does for "none"; nothing is changed and None returned.
    """
    if root == "none" or (not root and _folder_now()):
        return None
    return keep_in(user_path(root or DEFAULT_ROOT))


def keep_in(root: str | os.PathLike[str]) -> Path:
    """Keeps all programs this process compiles from now on, and finds those kept before.

    They lie in this machine's folder in `root`, which any number of processes share. Where it
    cannot be written, an OSError says so and nothing was changed.
    """
    folder = Path(root) / machine_key()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass
    for program in folder.glob("*-cache"):
        # Without this file beside it, left out by a process that was killed or kept programs
        # without a limit, JAX fails to write any more programs.
        used = program.with_name(program.name.removesuffix("-cache") + "-atime")
        if not used.exists():
            used.write_bytes(bytes(8))  # Long ago.
    jax.config.update("jax_compilation_cache_max_size", _MAX_BYTES)
    if _folder_now() != str(folder):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        # It opens a folder once, at the first program.
        compilation_cache.reset_cache()
    # The many small programs of a start take as long together as a large one.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return folder


def _folder_now() -> str | None:
    return jax.config.values["jax_compilation_cache_dir"]


def choose_programs(growth: Growth) -> str:
    """`SHARED` or `EXACT`, as the settings say or the device that JAX found wants it."""
    if growth.capacity == 0 or growth.programs != "auto":
        return EXACT if growth.capacity == 0 else growth.programs
    platform = jax.default_backend()
    return _FASTEST.get(jax.devices()[0].device_kind, _FASTEST.get(platform, SHARED))


def choose_threads(growth: Growth) -> int:
    """How many threads compile ahead, and so how many growths ahead: some where that is exact.

    A growth's programs may take longer to compile than its epochs take an accelerator to train, and
    the depths to come are known.
    """
    if jax.default_backend() == "cpu" or choose_programs(growth) == SHARED:
        return 1
    return max(1, min(_MOST_THREADS, (os.cpu_count() or 1) // 4))


def most_seconds(network: Network, image_shape: Sequence[int], images: int) -> float:
    """What training on so many images takes a slow device; 0 where nobody knows."""
    slow = _SLOW.get(jax.default_backend(), _SLOW_ACCELERATOR)
    try:  # Forward and backward, a multiplication and an addition each.
        return 6 * estimate_cost(network, image_shape).macs * images / slow
    except UserError:
        return 0.0


class Programs:
    """Compiles functions for the shapes they meet and keeps account; ahead in some threads."""

    def __init__(self, threads: int = 1, deterministic: bool = False) -> None:
        self.threads, self._deterministic = threads, deterministic
        # Called now and then while a program is compiled, which signals cannot interrupt.
        self.look: Callable[[], None] | None = None
        self.seconds = 0.0  # That callers waited for tracing and compilation so far.
        self.evaluating = 0.0  # Seconds of evaluations, less what reading their images took.
        self.seconds_ahead = 0.0  # Spent in the background on programs that are finished.
        # Programs of each kind that were called; and of these, those compiled in the background.
        self.counts: Counter[str] = Counter()
        self.counts_ahead: Counter[str] = Counter()
        self._made: dict[Any, Callable] = {}
        self._compiled: dict[Any, Any] = {}
        self._ahead: dict[Any, Future[Any]] = {}
        # Its threads start with the first programs.
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="compiles ahead")
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="compiles")

    def _options(self, runs_seldom: bool) -> dict[str, Any] | None:
        platform = jax.default_backend()
        if platform == "gpu" and self._deterministic:
            return dict(_DETERMINISTIC)
        return _RUNS_SELDOM if runs_seldom and platform == "cpu" else None

    def make(self, make: Callable[..., Callable], recipe: Any, *more: Any) -> Callable:
        """`make(recipe, *more)`, once: a program made ahead is found again by its function."""
        key = make, recipe, *more
        if key not in self._made:
            self._made[key] = make(*key[1:])
        return self._made[key]

    def call(
        self,
        kind: str,
        function: Callable,
        *args: Any,
        donate: tuple[int, ...] = (),
        runs_seldom: bool = False,
    ) -> Any:
        """Calls `function(*args)`, counted as a `kind`, through an executable for these shapes.

        Args:
          function: pure; from `make`, as it is part of the key.
          *args: pytrees of arrays; Python numbers are traced.
          donate: positions of arguments whose buffers may be reused.
          runs_seldom: whether a quick compilation is worth more than a quick program.
        """
        key = _make_key(function, args)
        program = self._compiled.pop(key, None)
        if program is None:
            start = time.perf_counter()
            program = self._take(key)
            if program is None:
                lowered = jax.jit(function, donate_argnums=donate).lower(*args)
                compile_ = partial(lowered.compile, compiler_options=self._options(runs_seldom))
                program = self._wait(submit(self._beside, compile_)) if self.look else compile_()
            else:
                self.counts_ahead[kind] += 1
            self.seconds += time.perf_counter() - start
            self.counts[kind] += 1
            hosts.meet()
        self._compiled[key] = program  # The newest last.
        if len(self._compiled) > _MOST_KEPT:
            del self._compiled[next(iter(self._compiled))]
        return program(*args)

    def compile_ahead(
        self,
        function: Callable,
        *args: Any,
        donate: tuple[int, ...] = (),
        runs_seldom: bool = False,
    ) -> None:
        """Compiles in the background what `call` will be asked for, whose arguments it takes.

        Instead of arrays it takes what `describe` makes of them, too. A `call` that comes earlier
        waits for what is left. Where this fails, `call` compiles, and meets the same error.
        """
        args = describe(args)
        key = _make_key(function, args)
        if key in self._compiled or key in self._ahead:
            return
        settings = jax.config.values

        def work() -> Any:
            # A setting that the caller made for its own thread would make another program.
            if jax.config.values != settings:
                return None
            start = time.perf_counter()
            compiled = _compile(function, args, donate, self._options(runs_seldom))
            self.seconds_ahead += time.perf_counter() - start
            return compiled

        self._ahead[key] = submit(self._executor, work)

    def drop_ahead(self) -> None:
        """Forgets programs asked for ahead, where their compilation has not begun."""
        self._ahead = {key: future for key, future in self._ahead.items() if not future.cancel()}

    def close(self) -> None:
        """Drops what the background has not begun, and does not wait for what it has."""
        self._ahead.clear()
        for executor in (self._executor, self._beside):
            executor.shutdown(wait=False, cancel_futures=True)

    def _wait(self, future: Future[Any]) -> Any:
        while self.look is not None and not wait([future], _PATIENCE).done:
            self.look()
        return future.result()

    def _take(self, key: Any) -> Any:
        """The program made ahead; None where there is none, or the thread is busy with others."""
        future = self._ahead.pop(key, None)
        if future is None or future.cancel():
            return None
        try:
            return self._wait(future)
        except (Exception, CancelledError):  # Whatever it was, it is the foreground's to meet.
            return None


def describe(tree: Any) -> Any:
    """The tree with shape, dtype and place in the place of arrays."""

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array):
            return leaf
        # An array that nobody placed goes where the others are.
        sharding = leaf.sharding if leaf.committed else None
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(one, tree)


def _make_key(function: Callable, args: tuple[Any, ...]) -> Any:
    def sign(leaf: Any) -> Any:
        if not hasattr(leaf, "shape"):
            return type(leaf)
        placed = getattr(leaf, "committed", True)
        return leaf.shape, leaf.dtype, getattr(leaf, "sharding", None) if placed else None

    leaves, structure = jax.tree.flatten(args)
    return function, structure, tuple(map(sign, leaves))


def _compile(
    function: Callable, args: tuple[Any, ...], donate: tuple[int, ...], options: Any
) -> Any:
    lowered = jax.jit(function, donate_argnums=donate).lower(*args)
    return lowered.compile(compiler_options=options)
