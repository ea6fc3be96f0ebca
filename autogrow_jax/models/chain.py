"""Runs a stack of blocks that are a `Chain` by the package's own kernels."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from autogrow_jax import native
from autogrow_jax.models.layers import move_statistics
from autogrow_jax.models.stack import num_slots

Tree = Any


class Chain(NamedTuple):
    """What lets the package's own kernels run a whole stack of blocks.

    A block is convolutions of stride 1 with the names `conv1`, `conv2`..., each with batch
    normalisation, `bn1`, `bn2`..., and a ReLU behind it.

    Attributes:
      num_layers: convolutions.
      residual: whether the block's input is added before the last ReLU.
    """

    num_layers: int
    residual: bool

    def describes(self, call: Callable) -> Callable:
        """Says of a block's `__call__` what it computes where the block keeps the shape.

        A block derived from ours, with a `__call__` of its own, says nothing and runs as itself.
        """
        vars(call)["chain"] = self
        return call


def find_chain(block: nn.Module) -> Chain | None:
    """Returns what the block's own `__call__` computes; None where it says nothing."""
    return getattr(type(block).__call__, "chain", None)


def run_chain(
    chain: Chain,
    params: Tree,
    stats: Tree,
    x: jax.Array,
    depth: jax.Array | int | None,
    train: bool,
    by_parts: Callable[[Tree, Tree, jax.Array, jax.Array], jax.Array],
) -> tuple[jax.Array, Tree]:
    """Does what `run_stack` does, in one custom call.

    Args:
      chain: what the blocks are made of.
      params, stats, x, depth: as for `run_stack`.
      train: whether the batch's statistics normalise, and move the running ones.
      by_parts: computes the evaluation from (params, stats, x, depth) where it is differentiated.
    """
    slots = num_slots(params)
    if slots == 0:
        return x, stats
    depth = jnp.asarray(slots if depth is None else depth, jnp.int32)
    # They may have been stored as something else.
    params, stats = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (params, stats))
    numbers = range(1, chain.num_layers + 1)
    layers = tuple(
        native.StackLayer(params[f"conv{i}"]["kernel"], **params[f"bn{i}"]) for i in numbers
    )
    running = tuple(
        native.LayerStatistics(stats[f"bn{i}"]["mean"], stats[f"bn{i}"]["var"]) for i in numbers
    )
    if not train:

        def differentiable(operands):
            depth, x, layers, running = operands
            return by_parts(_params_of(layers), _stats_of(running), x, depth)

        z = native.evaluated_stack(depth, x, layers, running, chain.residual, differentiable)
        return z, stats
    z, found = native.stack(depth, x, layers, chain.residual)
    is_live = (jnp.arange(slots) < depth)[:, None]
    pairs, count = zip(running, found, strict=True), math.prod(x.shape[:3])
    moved = _stats_of(move_statistics(old, new, count) for old, new in pairs)
    return z, jax.tree.map(lambda new, old: jnp.where(is_live, new, old), moved, stats)


def _params_of(layers: Any) -> Tree:
    numbered = list(enumerate(layers, 1))
    convs = {f"conv{i}": {"kernel": layer.kernel} for i, layer in numbered}
    return convs | {f"bn{i}": {"scale": one.scale, "bias": one.bias} for i, one in numbered}


def _stats_of(known: Any) -> Tree:
    return {f"bn{i}": {"mean": mean, "var": var} for i, (mean, var) in enumerate(known, 1)}
