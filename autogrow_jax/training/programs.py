"""Programs compiled ahead of their first call, counted and timed."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax


class Programs:
    """Compiles functions for the shapes they meet and keeps account.

    Attributes:
      seconds: spent tracing and compiling so far.
      counts: compilations of each kind of program.
    """

    def __init__(self, seconds: float = 0.0, counts: dict[str, int] | None = None):
        self.seconds = seconds
        self.counts: Counter[str] = Counter(counts or {})
        self._compiled: dict[Any, Any] = {}

    def call(self, kind: str, function: Callable, *args: Any, donate: tuple[int, ...] = ()) -> Any:
        """Calls `function(*args)` through an executable made for these shapes.

        Args:
          kind: what the program is, such as "train"; counted under this name.
          function: pure; the same object each time, as it is part of the key.
          *args: pytrees of arrays; Python numbers are traced.
          donate: positions of arguments whose buffers may be reused.
        """
        signature = tuple(
            (leaf.shape, leaf.dtype, getattr(leaf, "sharding", None))
            if hasattr(leaf, "shape")
            else type(leaf)
            for leaf in jax.tree.leaves(args)
        )
        key = (function, jax.tree.structure(args), signature)
        if key not in self._compiled:
            start = time.perf_counter()
            jitted = jax.jit(function, donate_argnums=donate)
            self._compiled[key] = jitted.lower(*args).compile()
            self.seconds += time.perf_counter() - start
            self.counts[kind] += 1
        return self._compiled[key](*args)
