"""The loss over a plane of weights, on real images, on the device.

Batch normalisation uses the statistics of the batch, as in training: the loss is then a function of
the parameters, the one that training descends, and is right everywhere in the plane. Running
statistics would be those of other weights at every point that is no snapshot, and interpolating
them does not help: the statistics of a mean of two nets are not the mean of their statistics.
Images are not augmented, and everything is computed in float32 whatever the run computed in.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from autogrow_jax.data import Dataset, normalize
from autogrow_jax.errors import UserError
from autogrow_jax.models.network import Network
from autogrow_jax.trajectory.plane import Plane

Tree = Any
SPLITS = ("train", "validation", "test")


class Examples(NamedTuple):
    """Images in batches, on the device.

    Attributes:
      images: float32 [num_batches, batch, H, W, C], normalised.
      labels: int32 [num_batches, batch].
    """

    images: jax.Array
    labels: jax.Array


def choose_examples(dataset: Dataset, split: str, examples: int, batch: int, seed: int) -> Examples:
    """Draws a random part of one of `SPLITS`, the same for one seed.

    Args:
      dataset: loaded.
      split: of it.
      examples: how many; fewer where the split has fewer, and always whole batches.
      batch: images that are normalised together.
      seed: of the draw.

    Raises:
      UserError: for an unknown split, and for numbers below 1.
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
    return Examples(
        images.reshape(-1, batch, *images.shape[1:]),
        jnp.asarray(part.labels[rows].reshape(-1, batch), jnp.int32),
    )


def make_loss(network: Network) -> Callable[[Tree, Tree, Examples], jax.Array]:
    """Makes loss(params, batch_stats, examples): mean cross-entropy in nats; to be jitted.

    Each batch is normalised by its own statistics: `batch_stats` gives the structure only.
    """

    def loss(params, batch_stats, examples):
        def of_batch(batch):
            images, labels = batch
            variables = {"params": params, "batch_stats": batch_stats}
            logits = network.apply(variables, images, train=True)
            return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

        return jnp.mean(lax.map(of_batch, tuple(examples)))

    return loss


def loss_of_each(
    network: Network, points: list[Tree], batch_stats: Tree, examples: Examples
) -> np.ndarray:
    """Measures the loss at each of N trees of parameters, float64 [N]."""
    program = jax.jit(make_loss(network))
    # TensorFloat-32, a GPU's default, would round what padding has to give back as it was.
    with jax.default_matmul_precision("highest"):
        return np.array([float(program(params, batch_stats, examples)) for params in points])


def loss_in_plane(
    network: Network,
    plane: Plane,
    batch_stats: Tree,
    examples: Examples,
    x: np.ndarray,
    y: np.ndarray,
    progress: Callable[[int], None] = lambda count: None,
) -> np.ndarray:
    """Measures the loss over a grid; one program that is called once for each row.

    Points of a row come one after the other on the device: each convolves whole batches, which
    fills it, and convolutions with a kernel for each point would be grouped ones, which are slower.

    Args:
      network: at the depths of the plane's parameters.
      plane: whose coordinates x [columns] and y [rows] are.
      batch_stats: of the network; not read.
      examples: what the loss is measured on.
      x: of the columns.
      y: of the rows.
      progress: told after each row how many points it had.

    Returns:
      float64 [rows, columns]; not finite where the loss is not.
    """
    loss = make_loss(network)

    @jax.jit
    def row(center, directions, points, batch_stats, examples):
        def at(point):
            params = jax.tree.map(
                lambda c, u, v: c + point[0] * u + point[1] * v, center, *directions
            )
            return loss(params, batch_stats, examples)

        return lax.map(at, points)

    center, directions, batch_stats = jax.device_put((plane.center, plane.directions, batch_stats))
    rows = []
    with jax.default_matmul_precision("highest"):
        for height in y:
            points = jnp.asarray(np.stack([x, np.full_like(x, height)], 1), jnp.float32)
            rows.append(np.asarray(row(center, directions, points, batch_stats, examples)))
            progress(len(x))
    return np.stack(rows).astype(np.float64)


def grid_axes(
    coordinates: np.ndarray, points: int, least: float = 0.0, margin: float = 0.2
) -> tuple[np.ndarray, np.ndarray]:
    """Lays out a grid that covers all points with a margin, at most twice as long as wide.

    Args:
      coordinates: [N, 2].
      points: of each axis, at least 2.
      least: both axes reach at least from -least to least.
      margin: on each side, as a part of the longer axis.

    Returns:
      x and y, [points] each.
    """
    low = np.minimum(coordinates.min(0), -least)
    high = np.maximum(coordinates.max(0), least)
    longer = max(high - low)
    low, high = low - margin * longer, high + margin * longer
    # A strip would show nothing of the ground beside the path.
    missing = np.maximum(max(high - low) / 2 - (high - low), 0.0)
    low, high = low - missing / 2, high + missing / 2
    return np.linspace(low[0], high[0], points), np.linspace(low[1], high[1], points)
