"""Growth inside the loop: a block is started and written into a padded state, one program for all
stages and depths of a capacity."""

from collections.abc import Callable
from functools import partial

import optax
from jax import lax

from autogrow_jax.data.augment import normalize
from autogrow_jax.data.types import Preprocessing
from autogrow_jax.growth.graft import write_block
from autogrow_jax.growth.grow import needs_data, place_block, start_block
from autogrow_jax.models.network import Network, get_family
from autogrow_jax.training.state import TrainState


def make_grow_state(
    network: Network,
    optimizer: optax.GradientTransformation,
    preprocessing: Preprocessing,
    initializer: str,
    reset_optimizer: bool,
) -> Callable[..., TrainState]:
    """Makes the growth step on a padded state; to be jitted.

    Args:
      network: its depths are the capacities.
      optimizer: of the state.
      preprocessing: for the initialisers that look at images.
      initializer: a registered name; "adam" writes the default start here, its epochs of
        training are the loop's.
      reset_optimizer: whether the whole optimiser starts anew; otherwise old moments are kept and
        those of the new block start at the start.

    Returns:
      grow_state(state, key, stage, depths, images, labels) -> state with one more block in `stage`
      (int32), depths int32 [num_stages] before the growth, images uint8 [N, H, W, C].
    """
    start_as = "default" if initializer == "adam" else initializer

    def grow_stage(stage, state, key, depths, images, labels):
        slot = depths[stage] - 1
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        needed = needs_data(start_as, get_family(network.family))
        block = start_block(
            network,
            variables,
            stage,
            key,
            start_as,
            normalize(images, preprocessing) if needed else None,
            labels if needed else None,
            live_depths=depths,
            slot=slot,
        )
        grown = place_block(variables, stage, slot, block)
        params = grown["params"]
        opt_state = optimizer.init(params)
        if not reset_optimizer:
            opt_state = write_block(state.opt_state, opt_state, stage, slot)
        ema = write_block(state.ema, params, stage, slot) if state.ema else state.ema
        return TrainState(params, grown["batch_stats"], opt_state, ema)

    branches = [partial(grow_stage, stage) for stage in range(len(network.depths))]

    def grow_state(state, key, stage, depths, images, labels):
        return lax.switch(stage, branches, state, key, depths, images, labels)

    return grow_state
