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
      empty: makes the buffers of what the gradient needs, (shape, dtype); of dead slots nothing is
        read.

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


def _run_dynamic(block, params, stats, x, depth, empty):
    def pullback(p, s, x):
        return jax.vjp(lambda p, x: block(p, s, x), p, x, has_aux=True)

    structure = _ResidualStructure(pullback, _read(params, 0), _read(stats, 0), x)

    @jax.custom_vjp
    def run(params, stats, x, depth):
        def body(i, carry):
            x, stats = carry
            y, new_stats = block(_read(params, i), _read(stats, i), x)
            return y, _write(stats, i, new_stats)

        return lax.fori_loop(0, depth, body, (x, stats))

    def forward(params, stats, x, depth):
        capacity = num_slots(params)

        def body(i, carry):
            x, stats, saved = carry
            y, vjp, new_stats = pullback(_read(params, i), _read(stats, i), x)
            return y, _write(stats, i, new_stats), _write(saved, i, structure.to_save(vjp))

        buffers = [empty((capacity, *leaf.shape), leaf.dtype) for leaf in structure.saved]
        y, new_stats, saved = lax.fori_loop(0, depth, body, (x, stats, buffers))
        # The statistics before the step are part of what a block's gradient may read.
        return (y, new_stats), (params, stats, saved, depth)

    def backward(residuals, cotangents):
        params, stats, saved, depth = residuals
        grad_y, _ = cotangents

        def body(i, carry):
            grad_x, grads = carry
            slot = depth - 1 - i
            vjp = structure.restore(_read(params, slot), _read(stats, slot), _read(saved, slot))
            grad_params, grad_x = vjp(grad_x)
            return grad_x, _write(grads, slot, grad_params)

        zeros = jax.tree.map(jnp.zeros_like, params)
        grad_x, grads = lax.fori_loop(0, depth, body, (grad_y, zeros))
        return grads, jax.tree.map(jnp.zeros_like, stats), grad_x, None

    run.defvjp(forward, backward)
    return run(params, stats, x, depth)


class _ResidualStructure:
    """Takes a block's pullback apart into arrays to keep, and puts it together again.

    A pullback that `jax.vjp` returns is a pytree: its leaves are the arrays the gradient needs.
    Those that are the block's own parameters or statistics are not kept a second time.
    """

    def __init__(self, pullback, params, stats, x):
        def leaves_of(params, stats, x):
            _, vjp, _ = pullback(params, stats, x)
            leaves, self._treedef = jax.tree.flatten(vjp)
            inputs = [*jax.tree.leaves(params), *jax.tree.leaves(stats)]
            # Position among the inputs, or None where the leaf has to be kept.
            self._source = [
                next((i for i, given in enumerate(inputs) if given is leaf), None)
                for leaf in leaves
            ]
            return self.to_save(vjp)

        self.saved = jax.eval_shape(leaves_of, params, stats, x)

    def to_save(self, vjp):
        leaves = zip(jax.tree.leaves(vjp), self._source, strict=True)
        return [leaf for leaf, source in leaves if source is None]

    def restore(self, params, stats, saved):
        inputs = [*jax.tree.leaves(params), *jax.tree.leaves(stats)]
        kept = iter(saved)
        leaves = [next(kept) if source is None else inputs[source] for source in self._source]
        return jax.tree.unflatten(self._treedef, leaves)
