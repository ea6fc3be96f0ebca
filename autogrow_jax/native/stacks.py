"""Stacks of blocks whose number is data, each block some of `layers.layer`, run by one custom call.

What `stack.run_stack` does for any block, for those made of convolutions, batch normalisation and
ReLU: the loop over the blocks is the custom call's, which writes what the gradient needs where it
stays, and normalises what one block hands to the next while it is read.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax

from autogrow_jax.derivatives import reverse_mode
from autogrow_jax.native.targets import NO_FORWARD, call


class StackLayer(NamedTuple):
    """A layer's parameters for all slots.

    Attributes:
      kernel: [slots, K, K, C, F], K odd; the images keep their size.
      scale, bias: of its normalisation, [slots, F].
    """

    kernel: jax.Array
    scale: jax.Array
    bias: jax.Array


class LayerStatistics(NamedTuple):
    """What a layer normalises by, for all slots: [slots, F] each."""

    mean: jax.Array
    variance: jax.Array


Layers = tuple[StackLayer, ...]
Statistics = tuple[LayerStatistics, ...]
Evaluation = tuple[jax.Array, jax.Array, Layers, Statistics]


def _shapes(x: jax.Array, layers: Layers, residual: bool):
    """Of what the gradient needs: inputs of the blocks from slot 1 on, each layer's output."""
    slots = layers[0].kernel.shape[0]
    inputs = (max(slots - 1, 1), *x.shape) if residual else (0,)
    return inputs, [(slots, *x.shape[:3], layer.kernel.shape[4]) for layer in layers]


def _scratch(x: jax.Array, layers: Layers) -> tuple[int, ...]:
    return (3, *x.shape[:3], max(layer.kernel.shape[4] for layer in layers))


@reverse_mode(3, forward=NO_FORWARD)
def stack(
    depth: jax.Array, x: jax.Array, layers: Layers, residual: bool
) -> tuple[jax.Array, Statistics]:
    """Trains: runs the blocks of slots 0 to depth - 1 by the batch's statistics.

    Args:
      depth: int32, at most the number of slots.
      x: images [N, H, W, C]; all but `depth` is float32.
      layers: of a block, one after the other; the last one's features are C.
      residual: whether the block's input is added before the last layer's ReLU.

    Returns:
      The last block's output [N, H, W, C] and the statistics of each layer, zeros in dead slots;
      no gradient flows through these.
    """
    return _train(depth, x, layers, residual)[0]


def _train(depth, x, layers, residual):
    inputs, outputs = _shapes(x, layers, residual)
    shapes = [x.shape, inputs]
    for layer, output in zip(layers, outputs, strict=True):
        shapes += [output, layer.scale.shape, layer.scale.shape]
    operands = [array for layer in layers for array in layer]
    z, inputs, *rest = call("autogrow_stack", shapes, depth, x, *operands, residual=residual)
    statistics = tuple(map(LayerStatistics, rest[1::3], rest[2::3]))
    return (z, statistics), (depth, x, layers, inputs, rest[::3], statistics)


def _pullback(residual, saved, cotangents):
    depth, x, layers, inputs, outputs, statistics = saved
    shapes, operands = [x.shape, _scratch(x, layers)], []
    for layer, output, known in zip(layers, outputs, statistics, strict=True):
        shapes += [array.shape for array in layer]
        operands += [*layer, output, *known]
    grad_x, _, *grads = call(
        "autogrow_stack_gradient",
        shapes,
        *(depth, x, cotangents[0], inputs, *operands),
        residual=residual,
    )
    return None, grad_x, tuple(map(StackLayer, grads[::3], grads[1::3], grads[2::3]))


stack.defvjp(_train, _pullback)


@reverse_mode(4, 5, forward=NO_FORWARD)
def evaluated_stack(
    depth: jax.Array,
    x: jax.Array,
    layers: Layers,
    statistics: Statistics,
    residual: bool,
    by_parts: Callable[[Evaluation], jax.Array],
) -> jax.Array:
    """`stack` by the statistics that are given, of each layer.

    `by_parts` computes the same from (depth, x, layers, statistics) so that it can be
    differentiated.
    """
    operands = [
        array for layer, known in zip(layers, statistics, strict=True) for array in (*layer, *known)
    ]
    shapes = [x.shape, _scratch(x, layers)]
    return call("autogrow_evaluated_stack", shapes, depth, x, *operands, residual=residual)[0]


def _evaluate(depth, x, layers, statistics, residual, by_parts):
    z = evaluated_stack(depth, x, layers, statistics, residual, by_parts)
    return z, (depth, x, layers, statistics)


def _evaluated_pullback(residual, by_parts, operands, g):
    depth, *others = operands
    _, vjp = jax.vjp(lambda *others: by_parts((depth, *others)), *others)
    return None, *vjp(g)


evaluated_stack.defvjp(_evaluate, _evaluated_pullback)
