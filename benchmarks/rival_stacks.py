"""Rivals of `autogrow_jax.models.stack`: one program for all depths, by conditions; no loop."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from jax import lax

from autogrow_jax.models.network import Stage
from autogrow_jax.models.stack import num_slots

Tree = Any


def run_conditional_stack(
    block: Callable[[Tree, Tree, jax.Array], tuple[jax.Array, Tree]],
    params: Tree,
    stats: Tree,
    x: jax.Array,
    depth: jax.Array,
) -> tuple[jax.Array, Tree]:
    """What `run_stack` does, as a scan over all slots, dead ones skipped by `lax.cond`.

    A block is computed again for its gradient: otherwise a dead slot's would be zeros that are
    written and read.

    Args:
      block: pure function (params, stats, x) -> (y, new_stats).
      params: leaves [capacity, ...].
      stats: leaves [capacity, ...].
      x: [N, H, W, C].
      depth: number of live slots.
    """
    if num_slots(params) == 0:
        return x, stats
    block = jax.checkpoint(block)

    def one(x: jax.Array, slot: tuple[jax.Array, Tree, Tree]) -> tuple[jax.Array, Tree]:
        number, params, stats = slot
        return lax.cond(number < depth, lambda: block(params, stats, x), lambda: (x, stats))

    return lax.scan(one, x, (jnp.arange(num_slots(params)), params, stats))


@contextmanager
def conditional_stacks() -> Iterator[None]:
    """While it lasts, networks that are traced run their stages so."""

    def run(stage, block, apply, params, stats, x, train, live_depth):
        del stage, block, train
        return run_conditional_stack(apply, params, stats, x, live_depth - 1)

    with mock.patch.object(Stage, "_run", run):
        yield


@contextmanager
def unrolled_stacks() -> Iterator[None]:
    """While it lasts, networks of exact depth are traced with a stage's blocks one by one.

    Nothing is computed again for the gradient.
    """

    def run(stage, block, apply, params, stats, x, train, live_depth):
        del stage, block, train, live_depth
        if num_slots(params) == 0:
            return x, stats
        blocks = params, stats
        return lax.scan(lambda x, slot: apply(slot[0], slot[1], x), x, blocks, unroll=True)

    with mock.patch.object(Stage, "_run", run):
        yield
