"""The growth step: a deeper network, the old variables grafted in, the new block started."""

from functools import cache
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from autogrow_jax import trees
from autogrow_jax.errors import UserError
from autogrow_jax.growth.initializers import Initializer, Variables, get_initializer
from autogrow_jax.growth.policy import deepen
from autogrow_jax.growth.start import check_identity, start_block
from autogrow_jax.models import Network
from autogrow_jax.optim import LOSSES, Loss
from autogrow_jax.trees import STACKED, Tree, stage_of


def append_block(
    network: Network,
    variables: Variables,
    stage: int,
    key: jax.Array,
    initializer: Initializer,
    live_depths: jax.Array,
    images: jax.Array | None = None,
    labels: jax.Array | None = None,
    ema: Tree = None,
    loss_of: Loss = LOSSES["cross_entropy"],
) -> Variables:
    """Experimental: starts a block and writes it behind a stage's live ones; pure, may be jitted.

    Args:
      network, variables: have room for the block: of the deeper network, or of a capacity. What
        stands in the new block's place does not matter.
      live_depths: int32 [num_stages] before the growth.
      stage, key, images, labels, ema: as for `grow`, which raises the same.
      loss_of: of each image, for initialisers that want a loss.
    """
    given = images, labels, ema, loss_of
    block = _start(network, variables, stage, key, initializer, live_depths, *given)
    return _place(variables, stage, live_depths[stage] - 1, block)


def _start(network, variables, stage, key, initializer, live_depths, images, labels, ema, loss_of):
    check_identity(network, initializer)
    slot, name = live_depths[stage] - 1, f"stage{stage}"
    inputs = loss = None
    if initializer.needs_data(network.family):
        how = {"train": initializer.identity, "live_depths": live_depths, "mutable": True}
        _, captured = network.apply(variables, images, **how)
        (inputs,) = captured["intermediates"][f"{name}_output"]
    if initializer.needs_labels:
        grown = live_depths.at[stage].add(1)

        def loss(block_variables):
            full = _place(variables, stage, slot, block_variables)
            logits, updated = network.apply(
                full, images, train=True, live_depths=grown, mutable=["batch_stats"]
            )
            stats = updated.get("batch_stats", {}).get(name, {}).get(STACKED, {})
            return jnp.mean(loss_of(logits, jnp.asarray(labels))), jax.tree.map(
                lambda leaf: leaf[slot], stats
            )

    stages = {part: tree[name] for part, tree in variables.items() if name in tree}
    given = stages, ema[name] if ema else None, inputs, loss
    return start_block(network, initializer, stage, live_depths, key, *given)


_start_jitted = jax.jit(_start, static_argnums=(0, 2, 4, 9))


def check_finite(initializer: str, variables: Variables, stage: int, slot: int) -> None:
    """Raises UserError where an initialiser wrote a NaN or infinity into a slot."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        if stage_of(path) == stage and not np.isfinite(np.asarray(leaf)[slot]).all():
            raise UserError(
                f"initializer {initializer!r} made {jax.tree_util.keystr(path)} of a new block NaN"
                " or infinite; correct it, or look at the images it was given"
            )


def _place(variables: Variables, stage: int, slot: jax.Array, block: Variables) -> Variables:
    """Writes one block's parameters and statistics into a slot."""
    name, placed = f"stage{stage}", dict(variables)
    for part, tree in variables.items():
        if part in block:
            fresh = {**tree, name: {**tree[name], STACKED: block[part]}}
            placed[part] = trees.write_block(tree, fresh, stage, slot)
    return placed


def grow(
    network: Network,
    variables: Variables,
    *,
    stage: int,
    key: jax.Array,
    initializer: str = "gaussian",
    images: jax.Array | None = None,
    labels: jax.Array | None = None,
    ema: Tree = None,
) -> tuple[Network, Variables]:
    """Appends one block, which the initialiser starts, to a stage; all else stays as it is.

    Returns the deeper network and its variables (PAPER: "Algorithm", the append step);
    `grow_optimizer_state` takes the optimiser along.

    Args:
      network, variables: from `build_network`, and its variables of exact depth.
      stage: index of the stage that grows, from 0.
      key: decides the new block's random start.
      initializer: "morphism" (alias "zero"), "uniform", "gaussian", "adam", "default" or a
        registered one.
      images: a normalised batch [N, H, W, C], where the initialiser looks at data: morphism of
        plain blocks, and adam.
      labels: int [N], where it trains: adam.
      ema: a moving average of the parameters, if the initialiser looks at it.

    Raises:
      UserError: for a stage that is not there, an initialiser that is unknown, does not fit the
        family or returns something else than a block (values that are not finite are seen outside
        of transformations only), missing data, variables of other depths than the network's.
      GraftError: where the variables are not the network's in another way.
    """
    num_stages = len(network.depths)
    if not isinstance(stage, Integral) or not 0 <= stage < num_stages:
        raise UserError(f"stage {stage!r} is not one of the whole numbers 0..{num_stages - 1}")
    chosen, stage = get_initializer(initializer), int(stage)
    needs_images = chosen.needs_data(network.family)
    if needs_images and images is None:
        raise UserError(f"initializer {initializer!r} looks at data: pass images=, a batch")
    if chosen.needs_labels and labels is None:
        raise UserError(f"initializer {initializer!r} trains the block: pass images= and labels=")
    trees.check_depths(variables, network.depths)
    deeper = network.clone(depths=deepen(network.depths, stage))
    data = (images, labels) if needs_images else (None, None)
    roomy = network.clone(depths=tuple(max(8, 1 << depth.bit_length()) for depth in network.depths))
    jax.eval_shape(trees.graft, {**variables}, _shapes(roomy))  # It checks.
    rooms = trees.pad({**variables}, roomy.depths), trees.pad(ema, roomy.depths) if ema else None
    live = np.asarray(network.depths, np.int32)
    given = *data, rooms[1], LOSSES["cross_entropy"]
    block = _start_jitted(roomy, rooms[0], stage, key, chosen, live, *given)
    grown = trees.append({**variables}, block, stage)
    if not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(grown)):
        check_finite(initializer, grown, stage, network.depths[stage] - 1)
    return deeper, grown


@cache
def _shapes(network: Network) -> Any:
    image = jax.ShapeDtypeStruct((1, 32, 32, network.image_channels), jnp.float32)
    return jax.eval_shape(network.lazy_init, jax.random.key(0), image)


def grow_optimizer_state(optimizer: optax.GradientTransformation, state: Any, params: Any) -> Any:
    """The optimiser's state for deeper `params`: old moments kept, new ones as at the start.

    Raises GraftError where the state was not made by `optimizer` for the shallower `params`.
    """
    return trees.graft(state, optimizer.init(params))
