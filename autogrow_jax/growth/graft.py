"""Carries the leaves of a tree over into the deeper tree that takes its place.

Leaves are matched by their path, so one rule serves parameters, running statistics and the state
of any optax chain, whose trees repeat the parameters' names.
"""

import re
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp

Tree = Any
# The key under which a stage holds its stacked blocks.
STACKED = "rest"


class GraftError(ValueError):
    """Two trees that cannot be the shallow and the deep form of the same thing."""


def is_stacked(path: tuple[Any, ...]) -> bool:
    """Whether the leaf at a path of `jax.tree_util` has a leading axis of blocks."""
    return any(re.fullmatch(r"stage\d+", stage) for stage in _owners(path))


def in_stage(path: tuple[Any, ...], stage: int) -> bool:
    """Whether the leaf at a path belongs to the stacked blocks of `stage`."""
    return f"stage{stage}" in _owners(path)


def _owners(path: tuple[Any, ...]) -> list[str]:
    """The keys that stand right before `rest`: "rest" alone may be a label of an optax chain."""
    keys = [str(getattr(key, "key", "")) for key in path]
    return [before for before, key in pairwise(keys) if key == STACKED]


def graft(old: Tree, new: Tree) -> Tree:
    """Puts every leaf of `old` into its place in `new`.

    A leaf of the same path and shape replaces the new one; a leaf of stacked blocks
    [old_blocks, ...] replaces the first entries of the new one [new_blocks, ...].

    Args:
      old: any pytree of arrays made for the shallower network.
      new: the same for the deeper network; its further blocks are kept.

    Returns:
      A tree of the structure and shapes of `new`. Grafting onto zeros pads a tree to a capacity.

    Raises:
      GraftError: lists what is only in the old tree, only in the new one, and what has another
        shape or dtype in the two.
    """
    old_leaves = {
        jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(old)
    }
    new_leaves, treedef = jax.tree_util.tree_flatten_with_path(new)
    names = [jax.tree_util.keystr(path) for path, _ in new_leaves]
    complaints = [
        f"  - {name}: only in the old tree" for name in sorted(set(old_leaves) - {*names})
    ]
    result = []
    for name, (path, leaf) in zip(names, new_leaves, strict=True):
        if name not in old_leaves:
            complaints.append(f"  + {name}: only in the new tree")
            continue
        given = old_leaves[name]
        if _fits(given, leaf, is_stacked(path)):
            result.append(_place(given, leaf))
        else:
            complaints.append(f"  ! {name}: {_describe(given)} in the old tree, {_describe(leaf)}")
    if complaints:
        raise GraftError(
            "the old tree cannot be grafted into the new one:\n" + "\n".join(complaints)
        )
    return jax.tree.unflatten(treedef, result)


def _fits(given, leaf, stacked: bool) -> bool:
    if given.dtype != leaf.dtype or given.ndim != leaf.ndim:
        return False
    if given.shape == leaf.shape:
        return True
    return stacked and given.shape[1:] == leaf.shape[1:] and given.shape[0] <= leaf.shape[0]


def _place(given, leaf):
    if given.shape == leaf.shape:
        return given
    return jnp.asarray(leaf).at[: given.shape[0]].set(given)


def _describe(leaf) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"


def cut(tree: Tree, depths: tuple[int, ...]) -> Tree:
    """Drops the blocks beyond `depths`: the reverse of grafting onto a larger capacity.

    Args:
      tree: any pytree whose stacked leaves lie under `stage{i}` and `rest`, [capacity, ...].
      depths: blocks of each stage, the first included; stacked leaves keep depth - 1 entries.
    """

    def cut_leaf(path, leaf):
        for stage, depth in enumerate(depths):
            if in_stage(path, stage):
                return leaf[: depth - 1]
        return leaf

    return jax.tree_util.tree_map_with_path(cut_leaf, tree)


def write_block(tree: Tree, fresh: Tree, stage: int, slot: jax.Array | int) -> Tree:
    """Copies one block's entries from `fresh` to `tree`: parameters, statistics, optimiser state.

    Args:
      tree: the tree to change (a copy is returned).
      fresh: a tree of the same structure and shapes, or one whose stacked leaves of `stage` have
        no leading axis (a single block).
      stage: whose blocks to change.
      slot: which entry of the stacked axis; may be traced. One outside the axis changes nothing.
    """

    def write(path, leaf, new):
        if not in_stage(path, stage) or leaf.ndim == 0 or leaf.shape[0] == 0:
            return leaf
        value = new if new.ndim == leaf.ndim - 1 else jnp.take(new, slot, axis=0, mode="clip")
        return leaf.at[slot].set(value.astype(leaf.dtype), mode="drop", wrap_negative_indices=False)

    return jax.tree_util.tree_map_with_path(write, tree, fresh)
