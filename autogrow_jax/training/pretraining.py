"""The paper's Adam initialiser: epochs on a new block alone, all else frozen.

PAPER, section "Initialisers".
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from autogrow_jax.growth.graft import in_stage
from autogrow_jax.growth.initializers import make_adam, trained_by_adam
from autogrow_jax.models.network import Network, get_family
from autogrow_jax.training.feed import Epoch, Feed
from autogrow_jax.training.state import TrainState
from autogrow_jax.training.step import Mask, Recipe, percent

# At most so many epochs, until the accuracy is back to within this many percentage points of the
# last epoch before growth.
EPOCHS = 10
TOLERANCE = 0.5


def pretrain(
    feed: Feed,
    recipe: Recipe,
    state: TrainState,
    stage: int,
    depths: jax.Array,
    key: jax.Array,
    train_accuracy: float,
) -> TrainState:
    """Trains the newest block of a stage.

    Args:
      feed: of the run.
      recipe: of the run's training; its network's depths are the capacities.
      state: padded, grown.
      stage: that grew.
      depths: int32 [num_stages], live.
      key: decides the epochs' order and augmentation.
      train_accuracy: of the last epoch before growth in percent.

    Returns:
      The state with the block's parameters and running statistics trained.
    """
    alone = make_recipe(recipe)
    mask = make_mask(recipe.network, state, stage, int(depths[stage]) - 2)
    # The step donates what it is given; the optimiser's own state stays out of it.
    optimizer_state = alone.optimizer.init(state.params)
    trained = TrainState(state.params, state.batch_stats, optimizer_state, {})
    for number in range(EPOCHS):
        order_key, augment_key = jax.random.split(jax.random.fold_in(key, number))
        settings = Epoch(order_key, augment_key, depths, 1.0)
        trained, sums = feed.train_epoch(trained, settings, None, (alone, mask))
        if percent(jax.device_get(sums)) > train_accuracy - TOLERANCE:
            break
    ema = state.ema
    if ema:
        ema = jax.tree.map(lambda e, p, m: e * (1 - m) + p * m, ema, trained.params, mask.params)
    return TrainState(trained.params, trained.batch_stats, state.opt_state, ema)


def make_recipe(recipe: Recipe) -> Recipe:
    """The recipe of a training step that pre-trains a new block: Adam, rate included."""
    # The step multiplies by minus the learning rate, Adam's own chain ends in minus its rate.
    optimizer = optax.chain(make_adam(), optax.scale(-1.0))
    return recipe._replace(optimizer=optimizer, ema=0.0)


def make_mask(network: Network, state: TrainState, stage: int, slot: int) -> Mask:
    """What pre-training a new block may change: its own parameters and running statistics.

    Of a residual block only scale and shift of the last batch normalisation.

    Args:
      network: its depths are the capacities.
      state: padded.
      stage: stage that grew.
      slot: the new block's entry in the stacked axis.
    """
    family = get_family(network.family)

    def mask(path: Any, leaf: jax.Array, all_params: bool) -> jax.Array:
        shape: Sequence[int] = (leaf.shape[0],) + (1,) * (leaf.ndim - 1) if leaf.ndim else ()
        if not in_stage(path, stage) or not (all_params or trained_by_adam(family, path)):
            return jnp.zeros(shape, leaf.dtype)
        return jnp.zeros(shape, leaf.dtype).at[slot].set(1)

    return Mask(
        jax.tree_util.tree_map_with_path(lambda p, a: mask(p, a, False), state.params),
        jax.tree_util.tree_map_with_path(lambda p, a: mask(p, a, True), state.batch_stats),
    )
