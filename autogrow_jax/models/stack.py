"""Runs a stack of equally shaped blocks whose number is data, not program.

The parameters of the blocks are stacked: every leaf has a leading axis of `capacity` slots, of
which the first `depth` hold a block. `depth` may be a traced integer, so that one executable
serves every depth up to the capacity. The forward loop runs exactly `depth` times and keeps what
the gradient needs in buffers of `capacity` slots; the reverse loop is written by hand, because
XLA cannot differentiate a loop of unknown length.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from autogrow_jax.derivatives import PullbackParts, guard, reverse_mode, turns_of

Tree = Any
BlockFn = Callable[[Tree, Tree, jax.Array], tuple[jax.Array, Tree]]


def _read(tree: Tree, slot: jax.Array | int) -> Tree:
    return jax.tree.map(lambda a: lax.dynamic_index_in_dim(a, slot, 0, keepdims=False), tree)


def _write(tree: Tree, slot: jax.Array, value: Tree) -> Tree:
    return jax.tree.map(
        lambda a, v: lax.dynamic_update_index_in_dim(a, v.astype(a.dtype), slot, 0), tree, value
    )


def num_slots(params: Tree) -> int:
    """The length of the leading axis that all leaves of `params` share."""
    return jax.tree.leaves(params)[0].shape[0]


def run_stack(
    block: BlockFn,
    params: Tree,
    stats: Tree,
    x: jax.Array,
    depth: jax.Array | int | None = None,
    empty: Callable[[tuple[int, ...], Any], jax.Array] = jnp.zeros,
) -> tuple[jax.Array, Tree]:
    """Applies `block` once for each of the first `depth` slots.

    Args:
      block: pure function (params, stats, x) -> (y, new_stats) with y of the shape of x and
        new_stats of the structure of stats. No gradient flows through stats.
      params, stats: leaves [capacity, ...]; running statistics may have no leaves.
      x: [N, H, W, C].
      depth: number of live slots, at most the capacity; None means all of them, run by
        `lax.scan`, which can be differentiated in any way.
      empty: makes buffers, (shape, dtype), for what the gradient needs; dead slots are not read.

    Returns:
      The last block's output [N, H, W, C] and the statistics, dead slots left as they were.
    """
    if num_slots(params) == 0:
        return x, stats
    if depth is None and not isinstance(x.shape[0], int):  # Exported, to where loops are slow.
        for slot in range(num_slots(params)):
            x, _ = block(*jax.tree.map(lambda leaf, i=slot: leaf[i], (params, stats)), x)
        return x, stats
    if depth is None:
        return lax.scan(lambda x, slot: block(slot[0], slot[1], x), x, (params, stats))
    return _run_dynamic(block, params, stats, x, jnp.asarray(depth, jnp.int32), empty)


_OR = "or give the network its exact depths (autogrow_jax.trees.cut) and no live_depths"
_NO_FORWARD = f"live_depths allow jax.jvp of jax.grad and no other forward mode: take that, {_OR}"
_NO_SECOND = f"live_depths allow no reverse mode of a gradient: take jax.jvp of jax.grad, {_OR}"


def _where(is_live: jax.Array, new: Tree, old: Tree) -> Tree:
    return jax.tree.map(lambda a, b: jnp.where(is_live, a.astype(b.dtype), b), new, old)


def _run_dynamic(block, params, stats, x, depth, empty):
    def pullback(p, s, x):
        return jax.vjp(lambda p, x: block(p, s, x), p, x, has_aux=True)

    structure = PullbackParts(pullback, _read(params, 0), _read(stats, 0), x)

    @reverse_mode(forward=_NO_FORWARD)
    def run(params, stats, x, depth):
        turns, all_live = turns_of(depth)

        def body(i, carry):
            x, stats = carry
            old = _read(stats, i)
            y, new = block(_read(params, i), old, x)
            is_live = all_live | (i < depth)
            return jnp.where(is_live, y, x), _write(stats, i, _where(is_live, new, old))

        return lax.fori_loop(0, turns, body, (x, stats))

    def forward(params, stats, x, depth):
        turns, all_live = turns_of(depth)

        def body(i, carry):
            x, stats, saved = carry
            old = _read(stats, i)
            y, vjp, new = pullback(_read(params, i), old, x)
            is_live = all_live | (i < depth)
            y, stats = jnp.where(is_live, y, x), _write(stats, i, _where(is_live, new, old))
            return y, stats, _write(saved, i, structure.to_save(vjp))

        buffers = [empty((num_slots(params), *leaf.shape), leaf.dtype) for leaf in structure.saved]
        found = lax.fori_loop(0, turns, body, (x, stats, buffers))
        y, new_stats, saved = guard(found, reverse=_NO_SECOND)
        # The statistics before the step are part of what a block's gradient may read.
        return (y, new_stats), (params, stats, saved, depth)

    def backward(residuals, cotangents):
        params, stats, saved, depth = residuals
        turns, all_live = turns_of(depth)

        def body(i, carry):
            grad_x, grads = carry
            slot = turns - 1 - i
            vjp = structure.restore(_read(params, slot), _read(stats, slot), _read(saved, slot))
            is_live, none = all_live | (slot < depth), jax.tree.map(jnp.zeros_like, _read(grads, 0))
            grad_params, grad_x = _where(is_live, vjp(grad_x), (none, grad_x))
            return grad_x, _write(grads, slot, grad_params)

        start = cotangents[0], jax.tree.map(jnp.zeros_like, params)
        grad_x, grads = guard(lax.fori_loop(0, turns, body, start), reverse=_NO_SECOND)
        return grads, jax.tree.map(jnp.zeros_like, stats), grad_x, None

    run.defvjp(forward, backward)
    return run(params, stats, x, depth)
