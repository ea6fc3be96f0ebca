"""The training step and the evaluation, as pure functions of arrays; no host work between steps.

A program trains for any number of consecutive steps of an epoch. Batches are a pure function of
(seed, epoch, step): `order` is the epoch's permutation, `key` its randomness.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from autogrow_jax.data.augment import augment, normalize
from autogrow_jax.data.types import Preprocessing
from autogrow_jax.models.network import Network
from autogrow_jax.training.parallel import AXIS, split_batch
from autogrow_jax.training.state import TrainState

Tree = Any


class Sums(NamedTuple):
    """What is added up over steps.

    Attributes:
      loss: sum over examples of the cross-entropy in nats.
      correct: number of examples classified correctly.
      examples: number of examples.
      bad_step: first step whose loss was not finite, -1 for none.
    """

    loss: jax.Array
    correct: jax.Array
    examples: jax.Array
    bad_step: jax.Array

    @staticmethod
    def zero() -> "Sums":
        whole = jnp.int32
        return Sums(jnp.float32(0), whole(0), whole(0), whole(-1))


def percent(sums: Sums) -> float:
    """Accuracy in percent."""
    return 100.0 * int(sums.correct) / int(sums.examples)


def mean_loss(sums: Sums) -> float:
    """Mean cross-entropy in nats."""
    return float(sums.loss) / int(sums.examples)


class Recipe(NamedTuple):
    """What a training step is made of; hashable, fixed for a run.

    Attributes:
      network: its depths are the capacities.
      optimizer: without its learning rate.
      preprocessing: augmentation and normalisation.
      batch_size: over all devices.
      ema: decay of the weights' average, 0 for none.
      parallel: "jit" normalises by the statistics of the whole batch, "pmap" by those of each
        device's part.
      mesh: the devices.
      exact: whether all of `network`'s blocks are live, so that depth is part of the program.
      evaluation_batch_size: images evaluated at once; 0 for as many as a step trains on.
    """

    network: Network
    optimizer: optax.GradientTransformation
    preprocessing: Preprocessing
    batch_size: int
    ema: float
    parallel: str
    mesh: Mesh
    exact: bool = False
    evaluation_batch_size: int = 0

    def live(self, depths: jax.Array) -> jax.Array | None:
        """What the network takes for its depth, int32 [num_stages]."""
        return None if self.exact else depths

    @property
    def images_evaluated_at_once(self) -> int:
        return self.evaluation_batch_size or self.batch_size


def _example_losses(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def _update(recipe: Recipe, state: TrainState, images, labels, depths, learning_rate, frozen):
    """One step on uint8 [N, H, W, C] images that are augmented already."""
    network, optimizer = recipe.network, recipe.optimizer
    images = normalize(images, recipe.preprocessing)

    def loss_fn(params):
        logits, updated = network.apply(
            {"params": params, "batch_stats": state.batch_stats},
            images,
            train=True,
            live_depths=recipe.live(depths),
            mutable=["batch_stats"],
        )
        losses = _example_losses(logits, labels)
        return jnp.mean(losses), (logits, updated.get("batch_stats", state.batch_stats))

    (loss, (logits, stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    correct = jnp.sum(jnp.argmax(logits, -1) == labels, dtype=jnp.int32)
    if recipe.parallel == "pmap":
        grads, stats, loss = lax.pmean((grads, stats, loss), AXIS)
        correct = lax.psum(correct, AXIS)
    if frozen is not None:
        grads = jax.tree.map(jnp.multiply, grads, frozen.params)
        stats = jax.tree.map(
            lambda new, old, m: new * m + old * (1 - m),
            stats,
            state.batch_stats,
            frozen.batch_stats,
        )
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    if frozen is not None:
        updates = jax.tree.map(jnp.multiply, updates, frozen.params)
    params = jax.tree.map(lambda p, u: p - learning_rate * u, state.params, updates)
    ema = state.ema
    if recipe.ema:
        ema = jax.tree.map(lambda e, p: recipe.ema * e + (1 - recipe.ema) * p, ema, params)
    return TrainState(params, stats, opt_state, ema), loss, correct


class Mask(NamedTuple):
    """Which leaves a step may change, 1 or 0, of shapes that broadcast to the leaves."""

    params: Tree
    batch_stats: Tree


def _add(sums: Sums, step, loss, correct, count) -> Sums:
    bad = jnp.where((sums.bad_step < 0) & ~jnp.isfinite(loss), step, sums.bad_step)
    return Sums(sums.loss + loss * count, sums.correct + correct, sums.examples + count, bad)


def make_train_steps(recipe: Recipe) -> Callable[..., tuple[TrainState, Sums]]:
    """Makes the function that trains for some steps; to be jitted, its first argument donated.

    Returns:
      train_steps(state, sums, images, labels, order, key, depths, learning_rate, first_step,
      num_steps, mask=None) -> (state, sums): images uint8 [M, H, W, C] and labels int32 [M] hold
      the whole set, order int32 [N] the epoch's permutation of training examples, depths int32
      [num_stages]; steps first_step to first_step + num_steps - 1 are taken. `sums` goes in and
      out, so that an epoch's sums do not depend on how many calls it was cut into.
    """
    mesh, batch_size = recipe.mesh, recipe.batch_size
    per_device = recipe.parallel == "pmap"
    local_size = batch_size // mesh.size if per_device else batch_size

    def train_steps(
        state,
        sums,
        images,
        labels,
        order,
        key,
        depths,
        learning_rate,
        first_step,
        num_steps,
        mask=None,
    ):
        def body(i, carry):
            state, sums = carry
            step = first_step + i
            step_key = jax.random.fold_in(key, step)
            start = step * batch_size
            if per_device:
                rank = lax.axis_index(AXIS)
                start += rank * local_size
                step_key = _key_of_rank(step_key, rank, mesh)
            chosen = lax.dynamic_slice_in_dim(order, start, local_size)
            batch, batch_labels = images[chosen], labels[chosen]
            if not per_device:
                batch, batch_labels = split_batch(batch, mesh), split_batch(batch_labels, mesh)
            batch = augment(step_key, batch, recipe.preprocessing)
            state, loss, correct = _update(
                recipe, state, batch, batch_labels, depths, learning_rate, mask
            )
            return state, _add(sums, step, loss, correct, batch_size)

        return lax.fori_loop(0, num_steps, body, (state, sums))

    return _per_device(train_steps, mesh) if per_device else train_steps


def _key_of_rank(key, rank, mesh: Mesh):
    """Each device's own draws; on one device those of "jit", which it then equals."""
    return key if mesh.size == 1 else jax.random.fold_in(key, rank)


def make_batch_step(recipe: Recipe) -> Callable[..., tuple[TrainState, Sums]]:
    """The same for a batch that comes from the host, where the set does not fit on the device.

    Returns:
      batch_step(state, sums, images, labels, key, depths, learning_rate, step, mask=None) ->
      (state, sums) with images uint8 [batch_size, H, W, C].
    """
    mesh = recipe.mesh
    per_device = recipe.parallel == "pmap"

    def batch_step(state, sums, images, labels, key, depths, learning_rate, step, mask=None):
        step_key = jax.random.fold_in(key, step)
        if per_device:
            rank, size = lax.axis_index(AXIS), recipe.batch_size // mesh.size
            step_key = _key_of_rank(step_key, rank, mesh)
            images = lax.dynamic_slice_in_dim(images, rank * size, size)
            labels = lax.dynamic_slice_in_dim(labels, rank * size, size)
        else:
            images, labels = split_batch(images, mesh), split_batch(labels, mesh)
        images = augment(step_key, images, recipe.preprocessing)
        state, loss, correct = _update(recipe, state, images, labels, depths, learning_rate, mask)
        return state, _add(sums, step, loss, correct, recipe.batch_size)

    return _per_device(batch_step, mesh) if per_device else batch_step


def make_evaluate(recipe: Recipe) -> Callable[..., Sums]:
    """Makes the evaluation of a range of examples in one program; to be jitted.

    Returns:
      evaluate(variables, images, labels, first, count, depths) -> sums over the examples first to
      first + count - 1 of images uint8 [M, H, W, C], without augmentation and with running
      statistics.
    """
    batch_size, mesh = recipe.images_evaluated_at_once, recipe.mesh

    def evaluate(variables, images, labels, first, count, depths):
        def body(i, sums):
            offsets = i * batch_size + jnp.arange(batch_size)
            # The last batch is filled up with examples that then count for nothing.
            chosen = first + jnp.minimum(offsets, count - 1)
            batch = normalize(split_batch(images[chosen], mesh), recipe.preprocessing)
            logits = cast(
                jax.Array,
                recipe.network.apply(
                    variables, batch, train=False, live_depths=recipe.live(depths)
                ),
            )
            wanted = labels[chosen]
            valid = offsets < count
            loss = jnp.sum(jnp.where(valid, _example_losses(logits, wanted), 0.0))
            correct = jnp.sum(valid & (jnp.argmax(logits, -1) == wanted), dtype=jnp.int32)
            seen = jnp.sum(valid, dtype=jnp.int32)
            return Sums(
                sums.loss + loss, sums.correct + correct, sums.examples + seen, sums.bad_step
            )

        num_batches = (count + batch_size - 1) // batch_size
        return lax.fori_loop(0, num_batches, body, Sums.zero())

    return evaluate


def choose_evaluation_batch_size(batch_size: int, num_examples: int, num_devices: int) -> int:
    """As many batches as those of `batch_size` would be, with as few images to fill up the last.

    Args:
      batch_size: at most so many images at once; a multiple of the devices.
      num_examples: that are evaluated most often, at least one.
      num_devices: that share a batch.

    >>> choose_evaluation_batch_size(128, 285, 1)
    96
    """
    # Also a multiple of eight, for the registers and tiles of most processors.
    unit = 8 * num_devices
    batches = -(-num_examples // batch_size)
    return min(batch_size, -(-num_examples // (batches * unit)) * unit)


def _per_device(function, mesh: Mesh):
    """Runs `function` on every device with all arguments replicated; it picks its own part."""
    everywhere = PartitionSpec()

    def run(*args):
        mapped = jax.shard_map(
            function,
            mesh=mesh,
            in_specs=tuple(everywhere for _ in args),
            out_specs=everywhere,
            check_vma=False,
        )
        return mapped(*args)

    return run


@partial(jax.jit, static_argnums=(1,))
def epoch_order(key: jax.Array, num_examples: int) -> jax.Array:
    """The order of an epoch's training examples: a permutation, int32 [num_examples]."""
    return jax.random.permutation(key, num_examples).astype(jnp.int32)
