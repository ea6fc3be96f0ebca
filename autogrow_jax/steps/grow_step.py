"""Start and growth inside the loop: one program for all stages and depths of a capacity.

Where the initialiser says so, the block is then trained alone for a few epochs, all else frozen:
the paper's Adam initialiser (PAPER, section "Initialisers").
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from autogrow_jax.data import normalize
from autogrow_jax.growth import get_initializer
from autogrow_jax.growth.grow import append_block
from autogrow_jax.growth.initializers import make_adam, trained_by_adam
from autogrow_jax.models import Network
from autogrow_jax.steps.feed import Epoch, Feed
from autogrow_jax.steps.state import TrainState, init_state
from autogrow_jax.steps.step import Mask, Recipe, percent
from autogrow_jax.trees import stage_of, write_block

# A block is trained alone for at most so many epochs, until the accuracy is back to within this
# many percentage points of the last epoch before growth.
EPOCHS = 10
TOLERANCE = 0.5

# The step multiplies by minus the learning rate, Adam's own chain ends in minus its rate. One
# object, as it is part of the recipe that a program is found by.
_ADAM = optax.chain(make_adam(), optax.scale(-1.0))


def make_init(recipe: Recipe, image_shape: tuple[int, int, int]) -> Callable[..., TrainState]:
    """Makes the start of a net, of a key; to be jitted."""

    def init(key: jax.Array) -> TrainState:
        return init_state(recipe.network, recipe.transformation(), key, image_shape, recipe.ema > 0)

    return init


def make_grow_state(
    recipe: Recipe, initializer: str, reset_optimizer: bool
) -> Callable[..., TrainState]:
    """Makes the growth step on a padded state; to be jitted.

    An initialiser that says `pretrain` gets no loss: its epochs of training are those of `pretrain`
    below. Unless the whole optimiser starts anew, old moments are kept and the new block's begin.

    Returns:
      grow_state(state, key, stage, depths, images, labels) -> state with one more block in `stage`
      (int32), depths int32 [num_stages] before the growth, images uint8 [N, H, W, C].
    """
    chosen = get_initializer(initializer)
    if chosen.pretrain:
        chosen = chosen._replace(needs_labels=False)
    network, optimizer = recipe.network, recipe.transformation()

    def grow_stage(stage, state, key, depths, images, labels):
        slot = depths[stage] - 1
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        data: tuple[Any, Any] = (None, None)
        if chosen.needs_data(network.family):
            data = normalize(images, recipe.preprocessing), labels
        given = *data, state.ema, recipe.loss
        grown = append_block(network, variables, stage, key, chosen, depths, *given)
        params = grown["params"]
        opt_state = optimizer.init(params)
        if not reset_optimizer:
            opt_state = write_block(state.opt_state, opt_state, stage, slot)
        ema = write_block(state.ema, params, stage, slot) if state.ema else state.ema
        return TrainState(params, grown["batch_stats"], opt_state, ema)

    def keep(state, *_):  # In the place of a stage that has no room for a second block.
        return state

    branches = [
        partial(grow_stage, stage) if room > 1 else keep
        for stage, room in enumerate(network.depths)
    ]

    def grow_state(state, key, stage, depths, images, labels):
        return lax.switch(stage, branches, state, key, depths, images, labels)

    return grow_state


def pretrain(
    feed: Feed,
    recipe: Recipe,
    state: TrainState,
    stage: int,
    depths: jax.Array,
    key: jax.Array,
    train_accuracy: float,
    look: Callable[[], None] | None = None,
) -> TrainState:
    """Trains the newest block of a stage of a padded state by Adam, all else frozen.

    `depths` are live, int32 [num_stages]; `key` decides the epochs' order and augmentation;
    `train_accuracy` is that of the last epoch before growth in percent; `look` may stop it.
    """
    alone = recipe._replace(optimizer=_ADAM, ema=0.0)
    mask = make_mask(recipe.network, state, stage, int(depths[stage]) - 2)
    # The step donates what it is given; the run's own optimiser state stays out of it.
    trained = TrainState(state.params, state.batch_stats, _ADAM.init(state.params), {})
    for number in range(EPOCHS):
        order_key, augment_key = jax.random.split(jax.random.fold_in(key, number))
        epoch = Epoch(order_key, augment_key, depths, 1.0)
        trained, sums = feed.train_epoch(alone, trained, epoch, mask=mask, look=look)
        if percent(jax.device_get(sums)) > train_accuracy - TOLERANCE:
            break
    ema = state.ema
    if ema:
        ema = jax.tree.map(lambda e, p, m: e * (1 - m) + p * m, ema, trained.params, mask.params)
    return TrainState(trained.params, trained.batch_stats, state.opt_state, ema)


def make_mask(network: Network, state: TrainState, stage: int, slot: int) -> Mask:
    """What pre-training a new block may change: its own parameters and running statistics.

    Of a residual block only what `Family.identity` names. `slot` is the block's entry in the
    stacked axis.
    """

    def mask(path: Any, leaf: jax.Array, all_params: bool) -> jax.Array:
        nothing = jnp.zeros(leaf.shape[:1] + (1,) * (leaf.ndim - 1), leaf.dtype)
        own_path = path[2:]  # Behind the stage and what holds its stacked blocks.
        is_own = all_params or trained_by_adam(network.family, own_path)
        is_own = is_own and stage_of(path) == stage
        return nothing.at[slot].set(1) if is_own else nothing

    return Mask(
        jax.tree_util.tree_map_with_path(lambda p, a: mask(p, a, False), state.params),
        jax.tree_util.tree_map_with_path(lambda p, a: mask(p, a, True), state.batch_stats),
    )
