"""What training changes, and its two forms: exact depth, and padded to a capacity.

Exact depth is what is saved, returned and grown in public. While the loop runs, the stacked axes
are padded to a capacity and the depth is data, so that growth within the capacity needs no new
program. Slots beyond the depth are dead: the network never reads them.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from autogrow_jax.growth.grow import cut
from autogrow_jax.models.network import Network

Tree = Any


class TrainState(NamedTuple):
    """All arrays of a run.

    Attributes:
      params: of the network.
      batch_stats: running statistics; empty without batch normalisation.
      opt_state: of the optimiser, for `params`.
      ema: exponential average of `params`; empty where none is kept.
    """

    params: Tree
    batch_stats: Tree
    opt_state: Tree
    ema: Tree

    def variables(self) -> dict[str, Tree]:
        """What `network.apply` takes for evaluation: averaged weights where they are kept."""
        return {"params": self.ema or self.params, "batch_stats": self.batch_stats}


def init_state(
    network: Network,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    image_shape: tuple[int, int, int],
    ema: bool,
) -> TrainState:
    """The state before the first step.

    Args:
      network: at exact depth.
      optimizer: whose state is made.
      key: decides the random start.
      image_shape: height and width in pixels, channels.
      ema: whether an average of the weights is kept.
    """
    variables = network.lazy_init(key, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
    params = variables["params"]
    # Copies: the training step donates its input, and one buffer must not be given away twice.
    average = jax.tree.map(jnp.copy, params) if ema else {}
    return TrainState(params, variables.get("batch_stats", {}), optimizer.init(params), average)


def choose_capacities(depths: tuple[int, ...], now: tuple[int, ...]) -> tuple[int, ...]:
    """Blocks to make room for in each stage.

    Capacities only grow, by doubling. When one stage runs out, stages within a quarter of their
    capacity grow along, because round robin is about to fill them and each change costs a
    compilation.

    Args:
      depths: what has to fit.
      now: the capacities so far; at the start those to begin with.
    """
    if all(depth <= capacity for depth, capacity in zip(depths, now, strict=True)):
        return now
    result = []
    for depth, capacity in zip(depths, now, strict=True):
        if depth > 0.75 * capacity:
            capacity *= 2
        while depth > capacity:
            capacity *= 2
        result.append(capacity)
    return tuple(result)


def pad_state(
    state: TrainState,
    network: Network,
    optimizer: optax.GradientTransformation,
    capacities: tuple[int, ...],
    image_shape: tuple[int, int, int],
) -> TrainState:
    """Pads the stacked axes of a state to a capacity with zeros; on the host, as NumPy arrays.

    Dead slots hold zeros, so decay and momentum leave them zero and no norm counts them.
    """
    roomy = network.clone(depths=capacities)
    template = jax.eval_shape(
        lambda: init_state(roomy, optimizer, jax.random.key(0), image_shape, bool(state.ema))
    )
    return pad_like(state, template)


def pad_like(state: TrainState, template: TrainState) -> TrainState:
    """The same to the shapes of `template`, whose leaves need nothing but a shape."""
    return jax.tree.map(_pad, state, template)


def _pad(leaf: Any, like: jax.ShapeDtypeStruct) -> np.ndarray:
    # On the host: on the device every shape would be a program of its own to compile.
    leaf = np.asarray(leaf)
    if leaf.shape == like.shape:
        return leaf
    return np.pad(leaf, [(0, new - old) for old, new in zip(leaf.shape, like.shape, strict=True)])


def cut_state(state: TrainState, depths: tuple[int, ...]) -> TrainState:
    """The exact-depth form of a padded state."""
    return cut(state, depths)
