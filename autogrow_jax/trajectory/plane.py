"""The plane a trajectory is drawn in: where it lies, and where the snapshots lie in it.

Coordinates are the parameters alone. Running statistics are no parameters: the loss in the plane is
normalised by batch statistics (see `surface`), which makes it a function of the parameters.

The plane goes through one snapshot, the centre. So at least this net, the end of the first run,
stands on the ground that is drawn; all others stand above it by the distance that is reported.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from autogrow_jax.errors import UserError
from autogrow_jax.growth.grow import is_stacked

Tree = Any


class Plane(NamedTuple):
    """centre + x * directions[0] + y * directions[1], and the points it was made for.

    Attributes:
      center: parameters, NumPy arrays.
      directions: two trees of the same structure.
      coordinates: x and y of the foot of each point in the plane, float64 [N, 2].
      distances: of each point from the plane, Euclidean, [N].
      explained: the part of the sum of squared distances from the centre that lies along each of
        two principal directions; of random ones, which are not at right angles, along both.
    """

    center: Tree
    directions: tuple[Tree, Tree]
    coordinates: np.ndarray
    distances: np.ndarray
    explained: tuple[float, ...]


def principal_plane(points: Sequence[Tree], center: int) -> Plane:
    """Finds the plane through one point that is nearest to all: PCA about that point.

    Points are few and parameters many, so the directions come from the N x N matrix of inner
    products, in float64. Axes have unit length: distances in the picture are distances of weights.
    The first point lies left of the centre, the one farthest from the x axis above it.

    Args:
      points: N trees of parameters, of one structure and shapes.
      center: index of the point the plane goes through.

    Raises:
      UserError: where the points lie on one line.
    """
    gram = np.zeros((len(points), len(points)))
    for stack in _differences(points, center):
        gram += stack @ stack.T
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1][:2], vectors[:, ::-1][:, :2]
    if len(values) < 2 or values[1] <= 1e-9 * max(values[0], 1e-300):
        raise UserError(
            "the snapshots lie on one line, which no plane is nearest to; keep more of them"
            " (--config.snapshots.every), or use --directions=random"
        )
    coordinates = vectors * np.sqrt(values)
    signs = np.where(coordinates[[0, np.argmax(np.abs(coordinates[:, 1]))], [0, 1]] > 0, 1, -1)
    signs[0] *= -1
    coordinates, weights = coordinates * signs, vectors * signs / np.sqrt(values)
    directions = [
        [(column @ stack).astype(np.float32) for stack in _differences(points, center)]
        for column in weights.T
    ]
    leaves, treedef = jax.tree.flatten(points[center])
    first, second = (
        jax.tree.unflatten(treedef, [d.reshape(a.shape) for d, a in zip(flat, leaves, strict=True)])
        for flat in directions
    )
    squares = np.diag(gram)
    distances = np.sqrt(np.maximum(squares - np.sum(coordinates**2, 1), 0.0))
    explained = tuple((values / squares.sum()).tolist())
    return Plane(points[center], (first, second), coordinates, distances, explained)


def random_plane(points: Sequence[Tree], center: int, seed: int) -> Plane:
    """Draws two random directions, each filter of them as long as the centre's.

    Scales, shifts and biases are left out. In so many dimensions a random plane is nearly at right
    angles to any path: expect the path to be short in it, and its distances large.

    Li et al., "Visualizing the Loss Landscape of Neural Nets", NeurIPS 2018, section 4.

    Args:
      points: N trees of parameters, of one structure and shapes.
      center: index of the point the plane goes through.
      seed: of the draw.
    """
    leaves, treedef = jax.tree_util.tree_flatten_with_path(points[center])
    first, second = (
        jax.tree.unflatten(
            treedef,
            [
                _random_filters(np.random.default_rng([seed, axis, i]), leaf, is_stacked(path))
                for i, (path, leaf) in enumerate(leaves)
            ],
        )
        for axis in range(2)
    )
    products, metric, squares = np.zeros((len(points), 2)), np.zeros((2, 2)), np.zeros(len(points))
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    for stack, pair in zip(_differences(points, center), pairs, strict=True):
        axes = np.stack([leaf.ravel() for leaf in pair]).astype(np.float64)
        products += stack @ axes.T
        metric += axes @ axes.T
        squares += np.sum(stack**2, 1)
    coordinates = np.linalg.solve(metric, products.T).T
    within = np.sum(coordinates * products, 1)
    distances = np.sqrt(np.maximum(squares - within, 0.0))
    explained = (float(within.sum() / max(squares.sum(), 1e-300)),)
    return Plane(points[center], (first, second), coordinates, distances, explained)


def _differences(points: Sequence[Tree], center: int):
    """For each leaf its difference from the centre's, float64 [N, size]; a leaf at a time."""
    for leaves in zip(*(jax.tree.leaves(point) for point in points), strict=True):
        stack = np.stack([np.ravel(leaf) for leaf in leaves]).astype(np.float64)
        yield stack - stack[center]


def _random_filters(generator: np.random.Generator, leaf: np.ndarray, stacked: bool) -> np.ndarray:
    """Normal noise like a leaf, each output channel (of each block) scaled to the leaf's norm."""
    if leaf.ndim - stacked < 2:
        return np.zeros_like(leaf)
    axes = tuple(range(int(stacked), leaf.ndim - 1))
    noise = generator.standard_normal(leaf.shape)
    norms = [np.sqrt(np.sum(np.square(a), axes, keepdims=True)) for a in (leaf, noise)]
    return (noise * (norms[0] / np.maximum(norms[1], 1e-12))).astype(leaf.dtype)
