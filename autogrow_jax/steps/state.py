"""What training changes, its two forms (exact depth, and padded to a capacity), where it lies.

Exact depth is what is saved, returned and grown in public. While the loop runs, the stacked axes
are padded to a capacity and the depth is data, so that growth within the capacity needs no new
program. Slots beyond the depth are dead: the network never reads them.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from autogrow_jax.errors import UserError
from autogrow_jax.models import Network
from autogrow_jax.optim import Steps
from autogrow_jax.trees import stage_of

Tree = Any
Depths = tuple[int, ...]
# Of the mesh, whose devices each train on a part of every batch.
AXIS = "data"


class TrainState(NamedTuple):
    """All arrays of a run."""

    params: Tree
    batch_stats: Tree  # Running statistics; empty without batch normalisation.
    opt_state: Tree
    ema: Tree  # Exponential average of `params`; empty where none is kept.

    def variables(self) -> dict[str, Tree]:
        """What `network.apply` takes for evaluation: averaged weights where they are kept."""
        return {"params": self.ema or self.params, "batch_stats": self.batch_stats}


def init_state(
    network: Network,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    image_shape: tuple[int, int, int],
    ema: bool,
) -> TrainState:
    """The state before the first step; `image_shape` is height and width in pixels, channels."""
    variables = network.lazy_init(key, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
    return make_state(variables, optimizer, ema)


def make_state(
    variables: Mapping[str, Tree], optimizer: optax.GradientTransformation, ema: bool
) -> TrainState:
    """The state of a net of some variables before the first step."""
    params = variables["params"]
    # Copies: the training step donates its input, and one buffer must not be given away twice.
    average = jax.tree.map(jnp.copy, params) if ema else {}
    return TrainState(params, variables.get("batch_stats", {}), optimizer.init(params), average)


def check_optimizer(network: Network, optimizer: Steps, image_shape: tuple[int, int, int]) -> None:
    """Looks whether growth can carry an optimiser's state along, and the schedule reach its rate.

    Raises:
      UserError: where parameters are of stacked blocks, [blocks, ...], its state is not, so that no
        new block could be written into it; or it keeps the learning rate that it began with.
    """
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    nets = [network.clone(depths=(blocks,) * len(network.depths)) for blocks in (2, 3)]
    few, more = (
        jax.eval_shape(lambda net=net: net.lazy_init(jax.random.key(0), image)["params"])
        for net in nets
    )
    states = (jax.eval_shape(optimizer(1.0).init, params) for params in (few, more))
    leaves = [dict(jax.tree_util.tree_leaves_with_path(state)) for state in states]
    for path, leaf in leaves[0].items():
        other = leaves[1].get(path)
        is_stacked = stage_of(path) is not None
        wanted = (2, *leaf.shape[1:]) if is_stacked else leaf.shape
        if other is None or other.shape != wanted or (is_stacked and leaf.shape[:1] != (1,)):
            raise UserError(
                "the optimiser's state is not an entry a block, as growth needs it: of nets of 2"
                f" and 3 blocks a stage {jax.tree_util.keystr(path)} has the shapes"
                f" {list(leaf.shape)} and {list(other.shape) if other else None}; take one whose"
                " state is shaped as the parameters are"
            )
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), few)
    one, half = (jax.tree.leaves(optimizer(rate).init(zeros)) for rate in (1.0, 0.5))
    pairs = zip(one, half, strict=True)
    if not all(_is_key(leaf) or np.array_equal(leaf, other) for leaf, other in pairs):
        raise UserError(
            "the optimiser keeps the learning rate in its state, so that the schedule would not"
            " reach it; give the transformation itself, with a rate of its own, and not a function"
            " of the rate"
        )


def _is_key(leaf: jax.Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def perturb(
    state: TrainState, fresh: Tree, share: float, optimizer: optax.GradientTransformation
) -> TrainState:
    """Moves all parameters a share of the way to `fresh` ones of the same net.

    Shrink and perturb: Ash and Adams, "On Warm-Starting Neural Network Training", NeurIPS 2020.
    Running statistics stay, the optimiser starts anew, and so does an average of the weights.
    """
    params = jax.tree.map(lambda old, new: (1 - share) * old + share * new, state.params, fresh)
    variables = {"params": params, "batch_stats": state.batch_stats}
    return make_state(variables, optimizer, bool(state.ema))


def choose_capacities(depths: Depths, now: Depths) -> Depths:
    """Blocks to make room for in each stage, where there is room for `now` so far.

    Capacities only grow, by doubling. When one stage runs out, stages within a quarter of their
    capacity grow along, because round robin is about to fill them and each change costs a
    compilation.
    """
    if all(depth <= capacity for depth, capacity in zip(depths, now, strict=True)):
        return now
    result = []
    for depth, capacity in zip(depths, now, strict=True):
        if depth > 0.75 * capacity:
            capacity *= 2
        while depth > capacity:
            capacity *= 2
        result.append(capacity)
    return tuple(result)


def pad_state(state: TrainState, template: TrainState) -> TrainState:
    """Pads the stacked axes to those of `template` with zeros; on the host, as NumPy arrays.

    Dead slots hold zeros, so decay and momentum leave them zero and no norm counts them. The leaves
    of `template` need nothing but a shape.
    """

    def pad(leaf: Any, like: jax.ShapeDtypeStruct) -> np.ndarray:
        # On the host: on the device every shape would be a program of its own to compile.
        leaf = np.asarray(leaf)
        more = [(0, new - old) for old, new in zip(leaf.shape, like.shape, strict=True)]
        return np.pad(leaf, more) if leaf.shape != like.shape else leaf

    return jax.tree.map(pad, state, template)


# --- Where arrays lie.


def make_mesh(num_devices: int, batch_size: int, parts: int = 1) -> Mesh:
    """A mesh of the first `num_devices` devices (0 for all), which have to divide the batch."""
    devices = jax.devices()
    count = num_devices or len(devices)
    if count > len(devices):
        raise UserError(
            f"config.num_devices is {count}, but JAX sees {len(devices)} {devices[0].platform}"
            " device(s); lower it, or 0 for all there are"
        )
    if count < len(devices) and jax.process_count() > 1:
        raise UserError(
            f"config.num_devices is {count}, but {jax.process_count()} processes have"
            f" {len(devices)} devices, and none may be left without; leave it at 0, or start fewer"
        )
    if parts > 1 and batch_size % (count * parts):
        raise UserError(
            f"config.data.batch_size is {batch_size}, which {parts} parts"
            f" (config.gradient_accumulation) on {count} devices do not divide; make it a multiple"
            f" of {count * parts}"
        )
    if batch_size % count:
        fitting = max(n for n in range(1, count + 1) if batch_size % n == 0)
        raise UserError(
            f"config.data.batch_size is {batch_size}, which {count} devices do not divide; make it"
            f" a multiple of {count}, or set config.num_devices={fitting}"
        )
    return Mesh(np.asarray(devices[:count]), (AXIS,))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Puts a copy of every leaf on each device of the mesh, of all processes, who have it alike."""
    place = NamedSharding(mesh, PartitionSpec())
    if not mesh.is_multi_process:
        return jax.device_put(tree, place)
    return jax.tree.map(partial(_spread, place), tree)


def spread_batch(rows: np.ndarray, read: Callable[[np.ndarray], Any], mesh: Mesh) -> jax.Array:
    """Puts on each device the part of a batch that it trains on; a process reads its own alone.

    `read` gives an array of the chosen `rows`, one after the other.
    """
    shape = (len(rows), *read(rows[:0]).shape[1:])
    place = NamedSharding(mesh, PartitionSpec(AXIS))

    def read_part(at: Any) -> Any:
        return read(rows[at[0]])

    return jax.make_array_from_callback(shape, place, read_part)


def _spread(place: NamedSharding, leaf: Any) -> jax.Array:
    if isinstance(leaf, jax.core.Tracer):
        return jax.lax.with_sharding_constraint(leaf, place)
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return jax.device_put(leaf, place)
    array = np.asarray(leaf)
    return jax.make_array_from_callback(array.shape, place, lambda at: array[at])


def split_batch(array: jax.Array, mesh: Mesh) -> jax.Array:
    """Inside jit: spreads the leading axis over the mesh, and with it the computation."""
    if mesh.size == 1:
        return array
    return jax.lax.with_sharding_constraint(array, NamedSharding(mesh, PartitionSpec(AXIS)))
