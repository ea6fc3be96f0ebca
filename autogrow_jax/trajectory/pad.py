"""Pads the variables of a network to more blocks, so that it computes what it computed.

Nets of different depths have weights in different spaces. Padded to common depths they are points
of one. Growth appends blocks at the end of a stage, so padding does too: a weight is the same
coordinate in all snapshots of a run. A padding block is what the initialiser `morphism` makes of a
block of zeros:

- residual: all its parameters are zero, so that it adds nothing to its input. These are the
  authors' blocks, and the same for all snapshots.
- plain: the identity kernel and a batch normalisation that undoes itself, scale = sqrt(var + eps),
  shift = mean, with mean and variance of what enters the block, measured on a batch that is
  normalised by its own statistics. The function is preserved in evaluation on any images, and on
  that batch in training mode too. The authors pad with zeros here as well, after which such a net
  is constant. All padding blocks of a stage are equal; they depend on the blocks before them only
  and on the batch, so equal blocks have equal padding.

A real block that takes the place of a padding block is far from it: in the path that growth is a
jump of about the norm of the new block (plus, in plain nets, that of the identity), and is drawn as
an event.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import unfreeze

from autogrow_jax.errors import UserError
from autogrow_jax.growth.initializers import Context, morphism
from autogrow_jax.models import Network, rest_block

Tree = Any
# Rounding through some hundred blocks stays far below it, another function is far above.
TOLERANCE = 1e-2


def make_pad(
    network: Network, images: jax.Array
) -> Callable[[Tree, tuple[int, ...]], tuple[dict[str, Tree], float]]:
    """Makes the function that pads to the depths of a network; one program for all depths.

    It measures on a normalised batch of images [N, H, W, C].

    Returns:
      pad(variables, depths) -> (variables of NumPy arrays at the network's depths, change): the
      largest change of a logit of the batch in evaluation or training mode, as a part of the
      largest logit. It raises UserError where the variables do not fit the network, and where
      padding changes the function: a family whose block cannot be the identity.
    """
    like = jax.ShapeDtypeStruct((1, *images.shape[1:]), jnp.float32)
    shapes = jax.eval_shape(lambda: network.lazy_init(jax.random.key(0), like))
    template = {name: shapes.get(name, {}) for name in ("params", "batch_stats")}
    program = jax.jit(lambda variables, depths, images: _pad(network, variables, depths, images))

    def pad(variables: Tree, depths: tuple[int, ...]) -> tuple[dict[str, Tree], float]:
        room = _make_room(variables, template)
        with jax.default_matmul_precision("highest"):
            padded, change = program(room, jnp.asarray(depths, jnp.int32), images)
        change = float(change)
        if not change <= TOLERANCE:  # NaN too.
            raise UserError(
                f"padding a {network.family.name!r} network of {depths} to {network.depths} changes"
                f" its logits by {change:.2g} of the largest: a block of this family is not the"
                " identity when it is started by 'morphism', so its runs cannot be compared"
            )
        return jax.tree.map(np.asarray, padded), change

    return pad


def _make_room(variables: Tree, template: Tree) -> Tree:
    """Appends blocks of zeros on the host: on the device each shape would be a program."""
    given = dict(jax.tree_util.tree_leaves_with_path(variables))

    def make(path, like):
        leaf = np.asarray(given.get(path, np.float32(0)))
        fits = leaf.ndim == len(like.shape) and leaf.shape[1:] == like.shape[1:]
        if not fits or leaf.shape[:1] > like.shape[:1] or leaf.dtype != like.dtype:
            found = f"{leaf.dtype}{list(leaf.shape)}" if path in given else "not in it"
            raise UserError(
                f"the snapshot is of another network: {jax.tree_util.keystr(path)} is {found} and"
                f" should fit in {like.dtype}{list(like.shape)}; other classes or channels?"
            )
        missing = [new - old for old, new in zip(leaf.shape, like.shape, strict=True)]
        return np.pad(leaf, [(0, more) for more in missing])

    return jax.tree_util.tree_map_with_path(make, template)


def _pad(network: Network, variables: Tree, depths: jax.Array, images: jax.Array):
    batch_logits, captured = network.apply(
        variables, images, train=True, live_depths=depths, mutable=["intermediates"]
    )
    before = network.apply(variables, images, live_depths=depths), batch_logits
    padded = variables
    for stage, depth in enumerate(network.depths):
        if depth > 1:
            (inputs,) = captured["intermediates"][f"stage{stage}_output"]
            is_padding = jnp.arange(depth - 1) >= depths[stage] - 1
            padded = _fill(padded, stage, is_padding, _identity(network, stage, inputs))
    after = network.apply(padded, images), network.apply(padded, images, train=True)
    change = [
        jnp.max(jnp.abs(a - b)) / jnp.maximum(jnp.max(jnp.abs(b)), 1e-30)
        for a, b in zip(after, before, strict=True)
    ]
    return padded, jnp.maximum(*change)


def _identity(network: Network, stage: int, inputs: jax.Array) -> Tree:
    """Variables of one padding block."""
    family = network.family
    like = jax.ShapeDtypeStruct((1, 8, 8, family.widths[stage]), network.options.dtype)
    key = jax.random.key(0)  # Decides nothing: what is drawn from it is put to zero.
    block = unfreeze(rest_block(network, stage).lazy_init(key, like, False))
    block = {**block, "params": jax.tree.map(jnp.zeros_like, block["params"])}
    return morphism(key, block, Context(family, inputs=inputs))


def _fill(variables: Tree, stage: int, where: jax.Array, block: Tree) -> Tree:
    """Writes a block into the slots of a stage where `where` [depth - 1] says so."""
    name = f"stage{stage}"

    def write(leaf, new):
        return jnp.where(where.reshape(-1, *(1,) * new.ndim), new.astype(leaf.dtype), leaf)

    filled = dict(variables)
    for collection, new in block.items():
        tree = filled[collection]
        rest = jax.tree.map(write, tree[name]["rest"], new)
        filled[collection] = {**tree, name: {**tree[name], "rest": rest}}
    return filled
