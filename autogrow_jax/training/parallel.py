"""One-dimensional data parallelism: a mesh, and where arrays lie on it."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from autogrow_jax.errors import UserError

AXIS = "data"


def make_mesh(num_devices: int, batch_size: int) -> Mesh:
    """A mesh of the first `num_devices` devices, 0 for all.

    Raises:
      UserError: where there are fewer devices, or they do not divide the batch.
    """
    devices = jax.devices()
    count = num_devices or len(devices)
    if count > len(devices):
        raise UserError(
            f"config.num_devices is {count}, but JAX sees {len(devices)} {devices[0].platform}"
            " device(s); lower it, or 0 for all there are"
        )
    if batch_size % count:
        fitting = max(n for n in range(1, count + 1) if batch_size % n == 0)
        raise UserError(
            f"config.data.batch_size is {batch_size}, which {count} devices do not divide; make it"
            f" a multiple of {count}, or set config.num_devices={fitting}"
        )
    return Mesh(np.asarray(devices[:count]), (AXIS,))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Puts a copy of every leaf on each device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def split_batch(array: jax.Array, mesh: Mesh) -> jax.Array:
    """Inside jit: spreads the leading axis over the mesh, and with it the computation."""
    if mesh.size == 1:
        return array
    return jax.lax.with_sharding_constraint(array, NamedSharding(mesh, PartitionSpec(AXIS)))
