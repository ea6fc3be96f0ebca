"""The growth step: a deeper network, the old variables grafted in, the new block started."""

from functools import partial
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax.core import unfreeze

from autogrow_jax.errors import UserError
from autogrow_jax.growth.graft import graft, in_stage, write_block
from autogrow_jax.growth.initializers import Context, Initializer, get_initializer
from autogrow_jax.growth.placement import deepen
from autogrow_jax.models import Network, rest_block

Variables = dict[str, Any]


def start_block(
    network: Network,
    variables: Variables,
    stage: int,
    key: jax.Array,
    initializer: Initializer,
    images: jax.Array | None = None,
    labels: jax.Array | None = None,
    live_depths: jax.Array | None = None,
    slot: jax.Array | int | None = None,
) -> Variables:
    """Variables of the block that is to be appended to a stage; pure, may be jitted.

    Args:
      network: has room for the block in `variables`: it is the deeper network, or one whose
        depths are a capacity.
      variables: of `network`; what stands in the new block's place does not matter.
      stage: index of the stage that grows.
      key: decides the draw.
      initializer: how the block starts.
      images: [N, H, W, C] float, normalised; for initialisers that look at data.
      labels: int [N].
      live_depths: int32 [num_stages] before the growth.
      slot: place of the new block in the stacked axis, live_depths[stage] - 1.

    Returns:
      {"params": ..., "batch_stats": ...} without an axis of blocks.
    """
    family = network.family
    random_key, start_key = jax.random.split(key)
    features = family.widths[stage]
    # Parameters depend on channels only; the pixels of this stand-in are never computed.
    like = jax.ShapeDtypeStruct((1, 8, 8, features), network.options.dtype)
    block = unfreeze(rest_block(network, stage).lazy_init(random_key, like, False))
    context = Context(family)
    if initializer.needs_data(family) and images is not None:
        _, captured = network.apply(
            variables, images, train=False, live_depths=live_depths, mutable=["intermediates"]
        )
        (inputs,) = captured["intermediates"][f"stage{stage}_output"]
        context = context._replace(inputs=inputs)
    if initializer.needs_labels and images is not None and labels is not None and slot is not None:
        if live_depths is None:
            raise ValueError("an initializer that trains needs live_depths")
        grown = live_depths.at[stage].add(1)

        def loss(block_variables):
            full = place_block(variables, stage, slot, block_variables)
            logits, updated = network.apply(
                full, images, train=True, live_depths=grown, mutable=["batch_stats"]
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            stats = updated.get("batch_stats", {}).get(f"stage{stage}", {}).get("rest", {})
            return jnp.mean(losses), jax.tree.map(lambda leaf: leaf[slot], stats)

        context = context._replace(loss=loss)
    return initializer.start(start_key, block, context)


def _under(tree: Any, stage: int, block: Any) -> Any:
    """`tree` with one block in place of the stacked blocks of a stage."""
    name = f"stage{stage}"
    return {**tree, name: {**tree[name], "rest": block}}


def place_block(variables: Variables, stage: int, slot: jax.Array | int, block: Variables):
    """Writes one block's parameters and statistics into a slot; a negative slot changes nothing."""
    return {
        name: write_block(tree, _under(tree, stage, block[name]), stage, slot)
        if name in block
        else tree
        for name, tree in variables.items()
    }


def grow(
    network: Network,
    variables: Variables,
    *,
    stage: int,
    key: jax.Array,
    initializer: str = "gaussian",
    images: jax.Array | None = None,
    labels: jax.Array | None = None,
) -> tuple[Network, Variables]:
    """Appends one block to a stage; the inputs stay as they are.

    Builds the deeper network, initialises it, grafts every old parameter and running statistic in
    and lets the initialiser write the new block (PAPER: "Algorithm", the append step).

    Args:
      network: from `build_network`.
      variables: its variables, exact depth.
      stage: index of the stage that grows, from 0.
      key: decides the new block's random start.
      initializer: "morphism" (alias "zero"), "uniform", "gaussian", "adam", "default" or a
        registered one.
      images: a normalised batch [N, H, W, C], where the initialiser looks at data: morphism of
        plain blocks, and adam.
      labels: int [N], where it trains: adam.

    Returns:
      The deeper network and its variables. For the optimiser's state see `grow_optimizer_state`.

    Raises:
      UserError: for a stage that is not there, an unknown initialiser, data that is missing,
        variables of other depths than the network's.
      GraftError: where the variables are not the network's in another way.
    """
    num_stages = len(network.depths)
    if not isinstance(stage, Integral) or not 0 <= stage < num_stages:
        raise UserError(f"stage {stage!r} is not one of the whole numbers 0..{num_stages - 1}")
    stage = int(stage)
    chosen = get_initializer(initializer)
    needs_images = chosen.needs_data(network.family)
    if needs_images and images is None:
        raise UserError(f"initializer {initializer!r} looks at data: pass images=, a batch")
    if chosen.needs_labels and labels is None:
        raise UserError(f"initializer {initializer!r} trains the block: pass images= and labels=")
    _check_depths(network, variables)
    depths = deepen(network.depths, stage)
    deeper = network.clone(depths=depths)
    if not needs_images:
        images = labels = None
    grown = _grow(deeper, stage, chosen, {**variables}, key, images, labels)
    return deeper, grown


def _check_depths(network: Network, variables: Variables) -> None:
    """A tree that is too shallow would graft, and leave blocks between as `init` draws them."""
    for path, leaf in jax.tree_util.tree_leaves_with_path({**variables}):
        for stage, depth in enumerate(network.depths):
            if in_stage(path, stage) and leaf.shape[0] != depth - 1:
                raise UserError(
                    f"stage {stage} of the network has {depth} blocks, the variables hold"
                    f" {leaf.shape[0] + 1}; build the network with the depths the variables were"
                    " made for"
                )


@partial(jax.jit, static_argnums=(0, 1, 2))
def _grow(deeper, stage, initializer, variables, key, images, labels):
    like = jnp.zeros((1, 32, 32, deeper.image_channels)) if images is None else images[:1]
    template = deeper.init(jax.random.fold_in(key, 0), like)
    template = {name: tree for name, tree in template.items() if name != "intermediates"}
    grafted = graft(variables, template)
    slot = deeper.depths[stage] - 2
    live = jnp.asarray([d - (i == stage) for i, d in enumerate(deeper.depths)], jnp.int32)
    block = start_block(
        deeper, grafted, stage, key, initializer, images, labels, live_depths=live, slot=slot
    )
    return place_block(grafted, stage, slot, block)


def grow_optimizer_state(optimizer: optax.GradientTransformation, state: Any, params: Any) -> Any:
    """The optimiser's state for deeper parameters: old moments kept, new ones as at the start.

    Args:
      optimizer: any optax chain.
      state: its state for the shallower parameters.
      params: the deeper parameters.

    Raises:
      GraftError: where the state was not made by `optimizer` for the shallower form of `params`.
    """
    return graft(state, optimizer.init(params))
