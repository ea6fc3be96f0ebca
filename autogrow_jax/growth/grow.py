"""The growth step: a deeper network, the old variables grafted in, the new block started.

Leaves of trees are matched by their path, so one rule serves parameters, running statistics and the
state of any optax chain, whose trees repeat the parameters' names.
"""

import re
from functools import partial
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.core import unfreeze

from autogrow_jax.errors import UserError
from autogrow_jax.growth.initializers import (
    STACKED,
    Context,
    Initializer,
    Variables,
    block_before,
    check_block,
    get_initializer,
)
from autogrow_jax.growth.policy import deepen
from autogrow_jax.models import Network, rest_block

Tree = Any


class GraftError(ValueError):
    """Two trees that cannot be the shallow and the deep form of the same thing."""


def stage_of(path: tuple[Any, ...]) -> int | None:
    """The stage of whose stacked blocks a leaf is, by its path; None where it is of none."""
    # "rest" alone, or a stage's name, may be a label of an optax chain.
    found = re.search(rf"\['stage(\d+)'\]\['{STACKED}'\]", jax.tree_util.keystr(path))
    return int(found[1]) if found else None


def graft(old: Tree, new: Tree) -> Tree:
    """Puts every leaf of `old`, any pytree of arrays made for the shallower network, into `new`.

    A leaf of the same path and shape replaces the new one; a leaf of stacked blocks
    [old_blocks, ...] replaces the first entries of the new one [new_blocks, ...], which keeps the
    others. Grafting onto zeros pads a tree to a capacity.

    Raises:
      GraftError: lists what is only in the old tree, only in the new one, and what has another
        shape or dtype in the two.
    """
    keystr = jax.tree_util.keystr
    old_leaves = {keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(old)}
    new_leaves, treedef = jax.tree_util.tree_flatten_with_path(new)
    missing = sorted(set(old_leaves) - {keystr(path) for path, _ in new_leaves})
    complaints = [f"  - {name}: only in the old tree" for name in missing]
    result = []
    for path, leaf in new_leaves:
        name = keystr(path)
        if name not in old_leaves:
            complaints.append(f"  + {name}: only in the new tree")
            continue
        given = old_leaves[name]
        alike = given.dtype == leaf.dtype and given.ndim == leaf.ndim
        more = [wanted - size for size, wanted in zip(given.shape, leaf.shape, strict=False)]
        if alike and not any(more):
            result.append(given)
        elif alike and stage_of(path) is not None and more[0] > 0 and not any(more[1:]):
            result.append(jnp.asarray(leaf).at[: given.shape[0]].set(given))
        else:
            found, wanted = (f"{a.dtype}{list(a.shape)}" for a in (given, leaf))
            complaints.append(f"  ! {name}: {found} in the old tree, {wanted}")
    if complaints:
        raise GraftError(
            "the old tree cannot be grafted into the new one:\n" + "\n".join(complaints)
        )
    return jax.tree.unflatten(treedef, result)


def cut(tree: Tree, depths: tuple[int, ...]) -> Tree:
    """Drops the blocks beyond `depths`, each with its stage's first: undoes a graft onto zeros."""

    def cut_leaf(path, leaf):
        stage = stage_of(path)
        return leaf if stage is None else leaf[: depths[stage] - 1]

    return jax.tree_util.tree_map_with_path(cut_leaf, tree)


def write_block(tree: Tree, fresh: Tree, stage: int, slot: jax.Array | int) -> Tree:
    """Copies the entries of one block of `stage` from `fresh` into a copy of `tree`.

    Args:
      tree: parameters, statistics or optimiser state.
      fresh: of the same structure and shapes, or a single block: the leaves of `stage` have no
        leading axis.
      slot: which entry of the stacked axis; may be traced. One outside the axis changes nothing.
    """

    def write(path, leaf, new):
        if stage_of(path) != stage or leaf.ndim == 0 or leaf.shape[0] == 0:
            return leaf
        value = new if new.ndim == leaf.ndim - 1 else jnp.take(new, slot, axis=0, mode="clip")
        return leaf.at[slot].set(value.astype(leaf.dtype), mode="drop", wrap_negative_indices=False)

    return jax.tree_util.tree_map_with_path(write, tree, fresh)


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
) -> Variables:
    """Starts a block and writes it behind the live ones of a stage; pure, may be jitted.

    Args:
      network, variables: have room for the block: of the deeper network, or of a capacity. What
        stands in the new block's place does not matter.
      live_depths: int32 [num_stages] before the growth.
      images, labels: what the initialiser needs of them; as for `grow`, like the rest.
      ema: a moving average of the parameters, of the same shapes, if there is one.

    Raises UserError where the initialiser returns something else than a block.
    """
    family, slot = network.family, live_depths[stage] - 1
    random_key, start_key = jax.random.split(key)
    # Parameters depend on channels only; the pixels of this stand-in are never computed.
    like = jax.ShapeDtypeStruct((1, 8, 8, family.widths[stage]), network.options.dtype)
    module, name = rest_block(network, stage), f"stage{stage}"
    block = unfreeze(module.lazy_init(random_key, like, False))
    stages = {part: variables[part][name] for part in block}
    before = {part: block_before(tree, block[part], slot) for part, tree in stages.items()}
    context = Context(family, stage, slot, live_depths, before)
    context = context._replace(
        stage_blocks={part: tree[STACKED] for part, tree in stages.items()},
        ema=block_before(ema[name], block["params"], slot) if ema else None,
    )
    if initializer.needs_data(family):
        _, captured = network.apply(
            variables, images, train=False, live_depths=live_depths, mutable=["intermediates"]
        )
        (inputs,) = captured["intermediates"][f"{name}_output"]
        outputs: Any = lambda given: module.apply(given, inputs, False)  # noqa: E731
        context = context._replace(inputs=inputs, outputs=outputs)
    if initializer.needs_labels:
        grown = live_depths.at[stage].add(1)

        def loss(block_variables):
            full = _place(variables, stage, slot, block_variables)
            logits, updated = network.apply(
                full, images, train=True, live_depths=grown, mutable=["batch_stats"]
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            stats = updated.get("batch_stats", {}).get(name, {}).get(STACKED, {})
            return jnp.mean(losses), jax.tree.map(lambda leaf: leaf[slot], stats)

        context = context._replace(loss=loss)
    started = initializer.start(start_key, block, context)
    return _place(variables, stage, slot, check_block(initializer.name, started, block))


def check_finite(initializer: str, variables: Variables, stage: int, slot: int) -> None:
    """Raises UserError where an initialiser wrote a NaN or infinity into a slot."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        if stage_of(path) == stage and not np.isfinite(np.asarray(leaf)[slot]).all():
            name = jax.tree_util.keystr(path).replace(f"['stage{stage}']['{STACKED}']", "")
            raise UserError(
                f"initializer {initializer!r} made {name} of a new block in stage {stage} NaN or"
                " infinite; correct it, or look at the images it was given"
            )


def _place(variables: Variables, stage: int, slot: jax.Array, block: Variables) -> Variables:
    """Writes one block's parameters and statistics into a slot."""
    name, placed = f"stage{stage}", {}
    for part, tree in variables.items():
        if part in block:
            fresh = {**tree, name: {**tree[name], STACKED: block[part]}}
            tree = write_block(tree, fresh, stage, slot)
        placed[part] = tree
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
    """Appends one block to a stage; the inputs stay as they are.

    Grafts every old parameter and running statistic into the deeper network, and lets the
    initialiser write the new block (PAPER: "Algorithm", the append step).

    Args:
      network, variables: from `build_network`, and its variables of exact depth.
      stage: index of the stage that grows, from 0.
      key: decides the new block's random start.
      initializer: "morphism" (alias "zero"), "uniform", "gaussian", "adam", "default" or a
        registered one.
      images: a normalised batch [N, H, W, C], where the initialiser looks at data: morphism of
        plain blocks, and adam.
      labels: int [N], where it trains: adam.
      ema: a moving average of the parameters, for an initialiser of one's own that looks at it.

    Returns:
      The deeper network and its variables; `grow_optimizer_state` takes the optimiser along.

    Raises:
      UserError: for a stage that is not there, an unknown initialiser, data that is missing,
        variables of other depths than the network's, what an initialiser may not return (a value
        that is not finite only outside of a transformation, where values are known).
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
    deeper = network.clone(depths=deepen(network.depths, stage))
    data = (images, labels) if needs_images else (None, None)
    grown = _grow(network, deeper, stage, chosen, {**variables}, key, *data, ema)
    if not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(grown)):
        check_finite(initializer, grown, stage, network.depths[stage] - 1)
    return deeper, grown


def _check_depths(network: Network, variables: Variables) -> None:
    """A tree that is too shallow would graft, and leave blocks between as `init` draws them."""
    for path, leaf in jax.tree_util.tree_leaves_with_path({**variables}):
        for stage, depth in enumerate(network.depths):
            if stage_of(path) == stage and leaf.shape[0] != depth - 1:
                raise UserError(
                    f"stage {stage} of the network has {depth} blocks, the variables hold"
                    f" {leaf.shape[0] + 1}; build the network with the depths the variables were"
                    " made for"
                )


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _grow(network, deeper, stage, initializer, variables, key, images, labels, ema):
    like = jnp.zeros((1, 32, 32, deeper.image_channels)) if images is None else images[:1]
    fresh = deeper.init(jax.random.fold_in(key, 0), like)
    grafted, ema = graft(variables, fresh), graft(ema, fresh["params"]) if ema else None
    live = jnp.asarray(network.depths, jnp.int32)
    return append_block(deeper, grafted, stage, key, initializer, live, images, labels, ema)


def grow_optimizer_state(optimizer: optax.GradientTransformation, state: Any, params: Any) -> Any:
    """The optimiser's state for deeper `params`: old moments kept, new ones as at the start.

    Raises GraftError where the state was not made by `optimizer` for the shallower `params`.
    """
    return graft(state, optimizer.init(params))
