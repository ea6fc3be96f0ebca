"""Programs compiled before their first call, by who waits or by a thread, counted and timed."""

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any

import jax

from autogrow_jax.process import Background
from autogrow_jax.training.program_store import compile_or_read

# What a program that runs seldom is compiled with on a CPU. There LLVM's optimisation takes nearly
# all of the time, up to a second for each random draw. Level 1 takes a quarter of it and computes
# the same bits; level 0 would not: it does not fuse multiplications with additions.
_RUNS_SELDOM = {"xla_backend_optimization_level": "1"}


# Of those called last: a program for each depth would fill the memory of a long run.
_MOST_KEPT = 64


class Programs:
    """Compiles functions for the shapes they meet and keeps account.

    Attributes:
      seconds: that callers waited for tracing and compilation so far.
      seconds_ahead: spent in the background on programs that are finished.
      counts: programs of each kind that were called, wherever they were compiled.
      counts_ahead: of these, those compiled in the background.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.seconds_ahead = 0.0
        self.counts: Counter[str] = Counter()
        self.counts_ahead: Counter[str] = Counter()
        self._compiled: dict[Any, Any] = {}
        self._ahead: dict[Any, Future[Any]] = {}
        self._background = Background()

    def call(
        self,
        kind: str,
        function: Callable,
        *args: Any,
        donate: tuple[int, ...] = (),
        runs_seldom: bool = False,
    ) -> Any:
        """Calls `function(*args)` through an executable made for these shapes.

        Args:
          kind: what the program is, such as "train"; counted under this name.
          function: pure; the same object each time, as it is part of the key.
          *args: pytrees of arrays; Python numbers are traced.
          donate: positions of arguments whose buffers may be reused.
          runs_seldom: whether a quick compilation is worth more than a quick program.
        """
        key = _make_key(function, args)
        if key not in self._compiled:
            start = time.perf_counter()
            compiled = self._take(key)
            if compiled is None:
                compiled = _compile(function, args, donate, runs_seldom)
            else:
                self.counts_ahead[kind] += 1
            self._keep(key, compiled)
            self.seconds += time.perf_counter() - start
            self.counts[kind] += 1
        else:
            self._compiled[key] = self._compiled.pop(key)  # The newest last.
        return self._compiled[key](*args)

    def _keep(self, key: Any, compiled: Any) -> None:
        self._compiled[key] = compiled
        while len(self._compiled) > _MOST_KEPT:
            del self._compiled[next(iter(self._compiled))]

    def compile_ahead(
        self,
        function: Callable,
        *args: Any,
        donate: tuple[int, ...] = (),
        runs_seldom: bool = False,
    ) -> None:
        """Compiles in the background what `call` will be asked for.

        A `call` that comes earlier waits for what is left. Where this fails, `call` compiles, and
        meets the same error.

        Args:
          function: and the rest as for `call`.
          *args: pytrees of arrays, or of `jax.ShapeDtypeStruct` as `describe` makes them.
          donate: as for `call`.
          runs_seldom: as for `call`.
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
            compiled = _compile(function, args, donate, runs_seldom)
            self.seconds_ahead += time.perf_counter() - start
            return compiled

        self._ahead[key] = self._background.submit(work)

    def drop_ahead(self) -> None:
        """Forgets programs asked for ahead, where their compilation has not begun."""
        self._ahead = {key: future for key, future in self._ahead.items() if not future.cancel()}

    def close(self) -> None:
        """Drops what the background has not begun, and does not wait for what it has."""
        self.drop_ahead()
        self._background.close()

    def _take(self, key: Any) -> Any:
        """The program made ahead; None where there is none, or the thread is busy with others."""
        future = self._ahead.pop(key, None)
        if future is None or future.cancel():
            return None
        try:
            return future.result()
        # Whatever it was, it is the foreground's to meet.
        except (Exception, CancelledError):
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
    function: Callable, args: tuple[Any, ...], donate: tuple[int, ...], runs_seldom: bool
) -> Any:
    traced = jax.jit(function, donate_argnums=donate).trace(*args)
    options: Any = _RUNS_SELDOM if runs_seldom and jax.default_backend() == "cpu" else None
    return compile_or_read(traced, donate, options)
