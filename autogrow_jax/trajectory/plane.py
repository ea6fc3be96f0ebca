"""The plane a trajectory is drawn in, where the snapshots lie in it, and the loss over it.

Coordinates are the parameters alone. The plane goes through one snapshot, the centre. So at least
this net, the end of the first run, stands on the ground that is drawn; all others stand above it by
the distance that is reported.

The loss normalises by the statistics of the batch, as in training: it is then a function of the
parameters, the one that training descends, and is right everywhere in the plane. Running statistics
would be those of other weights at every point that is no snapshot, and interpolating them does not
help: the statistics of a mean of two nets are not the mean of their statistics. Images are not
augmented, and everything is computed in float32 whatever the run computed in.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from autogrow_jax.data import Dataset, normalize
from autogrow_jax.errors import UserError
from autogrow_jax.models.network import Network
from autogrow_jax.trees import stage_of

Tree = Any
SPLITS = ("train", "validation", "test")


class Plane(NamedTuple):
    """centre + x * directions[0] + y * directions[1], and the points it was made for."""

    center: Tree  # Parameters, NumPy arrays.
    directions: tuple[Tree, Tree]
    coordinates: np.ndarray  # x and y of the foot of each point in the plane, float64 [N, 2].
    distances: np.ndarray  # Of each point from the plane, Euclidean, [N].
    # The part of the sum of squared distances from the centre that lies along each of two principal
    # directions; of random ones, which are not at right angles, along both.
    explained: tuple[float, ...]


def principal_plane(points: Sequence[Tree], center: int) -> Plane:
    """Finds the plane through one point that is nearest to all: PCA about that point.

    Points are few and parameters many, so the directions come from the N x N matrix of inner
    products, in float64. Axes have unit length: distances in the picture are distances of weights.
    The first point lies left of the centre, the one farthest from the x axis above it.

    `points` are N trees of parameters, of one structure and shapes, `center` the index of the one
    that the plane goes through. UserError where they lie on one line.
    """
    values, vectors = np.linalg.eigh(sum(d @ d.T for d in _differences(points, center)))
    values, vectors = values[::-1][:2], vectors[:, ::-1][:, :2]
    if len(values) < 2 or values[1] <= 1e-9 * max(values[0], 1e-300):
        raise UserError(
            "the snapshots lie on one line, which no plane is nearest to; keep more of them"
            " (--config.snapshots.every), or use --directions=random"
        )
    farthest = np.argmax(np.abs(vectors[:, 1]))
    signs = (-1 if vectors[0, 0] > 0 else 1, 1 if vectors[farthest, 1] > 0 else -1)
    weights = vectors * signs / np.sqrt(values)
    leaves, treedef = jax.tree.flatten(points[center])
    first, second = (
        [
            (column @ difference).astype(np.float32).reshape(leaf.shape)
            for leaf, difference in zip(leaves, _differences(points, center), strict=True)
        ]
        for column in weights.T
    )
    axes = jax.tree.unflatten(treedef, first), jax.tree.unflatten(treedef, second)
    return _span(points, center, axes)


def random_plane(points: Sequence[Tree], center: int, seed: int) -> Plane:
    """Draws two random directions, each filter of them as long as the centre's.

    Scales, shifts and biases are left out. In so many dimensions a random plane is nearly at right
    angles to any path: expect the path to be short in it, and its distances large.

    Li et al., "Visualizing the Loss Landscape of Neural Nets", NeurIPS 2018, section 4.
    """
    generator = np.random.default_rng(seed)

    def draw(path: Any, leaf: np.ndarray) -> np.ndarray:
        """Normal noise, each output channel (of each block) scaled to the leaf's norm."""
        stacked = stage_of(path) is not None
        if leaf.ndim - stacked < 2:
            return np.zeros_like(leaf)
        noise, axes = generator.standard_normal(leaf.shape), tuple(range(stacked, leaf.ndim - 1))
        norms = [np.sqrt(np.sum(np.square(a), axes, keepdims=True)) for a in (leaf, noise)]
        return (noise * (norms[0] / np.maximum(norms[1], 1e-12))).astype(leaf.dtype)

    first, second = (jax.tree_util.tree_map_with_path(draw, points[center]) for _ in range(2))
    plane = _span(points, center, (first, second))
    return plane._replace(explained=(sum(plane.explained),))


def _span(points: Sequence[Tree], center: int, directions: tuple[Tree, Tree]) -> Plane:
    products, metric, squares = np.zeros((len(points), 2)), np.zeros((2, 2)), np.zeros(len(points))
    pairs = zip(*map(jax.tree.leaves, directions), strict=True)
    for difference, pair in zip(_differences(points, center), pairs, strict=True):
        axes = np.stack([np.ravel(leaf) for leaf in pair]).astype(np.float64)
        products += difference @ axes.T
        metric += axes @ axes.T
        squares += np.sum(difference**2, 1)
    coordinates = np.linalg.solve(metric, products.T).T
    within = coordinates * products
    distances = np.sqrt(np.maximum(squares - within.sum(1), 0.0))
    explained = tuple((within.sum(0) / max(squares.sum(), 1e-300)).tolist())
    return Plane(points[center], directions, coordinates, distances, explained)


def _differences(points: Sequence[Tree], center: int) -> Iterator[np.ndarray]:
    """For each leaf its difference from the centre's, float64 [N, size]; a leaf at a time."""
    for leaves in zip(*(jax.tree.leaves(point) for point in points), strict=True):
        stack = np.stack([np.ravel(leaf) for leaf in leaves]).astype(np.float64)
        yield stack - stack[center]


class Examples(NamedTuple):
    """Images in batches, on the device."""

    images: jax.Array  # float32 [num_batches, batch, H, W, C], normalised.
    labels: jax.Array  # int32 [num_batches, batch].


def choose_examples(dataset: Dataset, split: str, examples: int, batch: int, seed: int) -> Examples:
    """Draws a random part of one of `SPLITS`, the same for one seed.

    There are fewer than `examples` where the split has fewer, and always whole batches of `batch`,
    the images that are normalised together. UserError for an unknown split or a number below 1.
    """
    if split not in SPLITS:
        raise UserError(f"split is {split!r}; choose one of {', '.join(SPLITS)}")
    if examples < 1 or batch < 1:
        raise UserError(f"examples is {examples} and batch is {batch}; both have to be at least 1")
    part = getattr(dataset, split)
    examples = min(examples, len(part.labels))
    batch = min(batch, examples)
    rows = np.random.default_rng(seed).permutation(len(part.labels))[: examples // batch * batch]
    images = normalize(jnp.asarray(part.images[rows]), dataset.preprocessing)
    labels = jnp.asarray(part.labels[rows].reshape(-1, batch), jnp.int32)
    return Examples(images.reshape(-1, batch, *images.shape[1:]), labels)


def make_loss(network: Network, batch_stats: Tree, examples: Examples) -> Callable[[Tree], float]:
    """Makes loss(params), the mean cross-entropy in nats; one program.

    Each batch is normalised by its own statistics: `batch_stats` gives the structure only.
    """

    def of_batch(variables: Tree, images: jax.Array, labels: jax.Array) -> jax.Array:
        logits = network.apply(variables, images, train=True)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    program = jax.jit(lambda given, all_: jnp.mean(lax.map(lambda b: of_batch(given, *b), all_)))

    def loss(params: Tree) -> float:
        # TensorFloat-32, a GPU's default, would round what padding has to give back as it was.
        with jax.default_matmul_precision("highest"):
            return float(program({"params": params, "batch_stats": batch_stats}, tuple(examples)))

    return loss


def loss_in_plane(
    loss: Callable[[Tree], float],
    plane: Plane,
    x: np.ndarray,
    y: np.ndarray,
    progress: Callable[[int], object] = lambda count: None,
) -> np.ndarray:
    """Measures a loss over a grid: float64 [rows, columns], not finite where the loss is not.

    x [columns] and y [rows] are coordinates in the plane. After each row `progress` is told how
    many points it had.
    """
    given = jax.device_put((plane.center, *plane.directions))
    place = jax.jit(lambda x, y, *trees: jax.tree.map(lambda c, u, v: c + x * u + y * v, *trees))
    rows = []
    for height in y:
        rows.append([loss(place(at, height, *given)) for at in x])
        progress(len(x))
    return np.array(rows)


def grid_axes(
    coordinates: np.ndarray, points: int, least: float = 0.0, margin: float = 0.2
) -> tuple[np.ndarray, np.ndarray]:
    """Lays out a grid that covers all points with a margin, at most twice as long as wide.

    Coordinates [N, 2] give x and y, [points] each, at least 2. Both axes reach at least from -least
    to least; the margin on each side is a part of the longer axis.
    """
    low = np.minimum(coordinates.min(0), -least)
    high = np.maximum(coordinates.max(0), least)
    longer = max(high - low)
    low, high = low - margin * longer, high + margin * longer
    # A strip would show nothing of the ground beside the path.
    missing = np.maximum(max(high - low) / 2 - (high - low), 0.0)
    low, high = low - missing / 2, high + missing / 2
    return np.linspace(low[0], high[0], points), np.linspace(low[1], high[1], points)
