"""Experimental: trees of the variables of nets of two depths, grafted, cut, one block written.

Leaves are matched by their path, so one rule serves parameters, running statistics and the state of
any optax chain, whose trees repeat the parameters' names.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from autogrow_jax.errors import UserError

Tree = Any
STACKED = "rest"  # The key under which a stage holds its stacked blocks.


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

    Raises GraftError, which lists what is only in one of the trees and what has another form.
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
        said = "the old tree cannot be grafted into the new one:"
        raise GraftError("\n".join([said, *complaints]))
    return jax.tree.unflatten(treedef, result)


def pad(tree: Tree, capacities: tuple[int, ...]) -> Tree:
    """Makes room, zeros, for so many blocks in each stage, the first among them; `cut` undoes it.

    Dead blocks of zeros stay zeros: decay and momentum leave them, and no norm counts them.
    """

    def pad_leaf(path, leaf):
        stage = stage_of(path)
        if stage is None:
            return leaf
        more = capacities[stage] - 1 - leaf.shape[0]
        if more < 0:
            raise UserError(
                f"stage {stage} holds {leaf.shape[0] + 1} blocks, which a capacity of"
                f" {capacities[stage]} has no room for; give one of at least as many"
            )
        if more == 0:
            return leaf
        rows = [(0, more)] + [(0, 0)] * (leaf.ndim - 1)
        if isinstance(leaf, jax.core.Tracer):
            return jnp.pad(leaf, rows)
        return jax.device_put(np.pad(leaf, rows))  # On a device each shape would be a program.

    return jax.tree_util.tree_map_with_path(pad_leaf, tree)


def check_depths(variables: Tree, depths: tuple[int, ...]) -> None:
    """Raises UserError where the stages of a network of `depths` hold other numbers of blocks."""
    # A tree that is too shallow would graft, and leave blocks of zeros between.
    for path, leaf in jax.tree_util.tree_leaves_with_path({**variables}):
        for stage, depth in enumerate(depths):
            if stage_of(path) == stage and leaf.shape[0] != depth - 1:
                raise UserError(
                    f"stage {stage} of the network has {depth} blocks, the variables hold"
                    f" {leaf.shape[0] + 1}; build the network with the depths the variables were"
                    " made for"
                )


def append(variables: Tree, block: Tree, stage: int) -> Tree:
    """Puts one block's {"params": ..., ...} behind those of a stage, in a tree of exact depth.

    Leaves lie where those of before did; all others are the very ones that are given.
    """

    def join(old, new):
        if isinstance(old, jax.core.Tracer) or isinstance(new, jax.core.Tracer):
            return jnp.concatenate([old, new[None].astype(old.dtype)])
        joined = np.concatenate([old, np.asarray(new, old.dtype)[None]])
        is_placed = isinstance(old, jax.Array) and old.committed
        # Not `jnp.asarray`, which compiles a program for each shape.
        return jax.device_put(joined, old.sharding if is_placed else None)

    name, grown = f"stage{stage}", {**variables}
    for part in block.keys() & variables.keys():
        tree = variables[part]
        rest = jax.tree.map(join, tree[name][STACKED], block[part])
        grown[part] = {**tree, name: {**tree[name], STACKED: rest}}
    return grown


def cut(tree: Tree, depths: tuple[int, ...]) -> Tree:
    """Drops the blocks beyond `depths`, each with its stage's first: undoes a graft onto zeros."""

    def cut_leaf(path, leaf):
        stage = stage_of(path)
        return leaf if stage is None else leaf[: depths[stage] - 1]

    return jax.tree_util.tree_map_with_path(cut_leaf, tree)


def write_block(tree: Tree, fresh: Tree, stage: int, slot: jax.Array | int) -> Tree:
    """Copies the entries of one block of `stage` from `fresh` into a copy of `tree`.

    `fresh` has the same structure and shapes, or is a single block: the leaves of `stage` have no
    leading axis. A `slot` (int32, may be traced) outside the stacked axis changes nothing.
    """

    def write(path, leaf, new):
        if stage_of(path) != stage or leaf.ndim == 0 or leaf.shape[0] == 0:
            return leaf
        value = new if new.ndim == leaf.ndim - 1 else jnp.take(new, slot, axis=0, mode="clip")
        return leaf.at[slot].set(value.astype(leaf.dtype), mode="drop", wrap_negative_indices=False)

    return jax.tree_util.tree_map_with_path(write, tree, fresh)
