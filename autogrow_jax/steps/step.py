"""The training step and the evaluation, as pure functions of arrays; no host work between steps.

A program trains for any number of consecutive steps of an epoch. Batches are a pure function of
(seed, epoch, step): `order` is the epoch's permutation, `key` its randomness.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from autogrow_jax.data import Augmentation, Preprocessing, augment, normalize
from autogrow_jax.errors import UserError
from autogrow_jax.models import Network
from autogrow_jax.optim import LOSSES, Loss, Steps, as_steps, measure_loss
from autogrow_jax.steps.accumulation import differentiate_parts
from autogrow_jax.steps.state import AXIS, TrainState, Tree, replicate, split_batch


class Sums(NamedTuple):
    """What is added up over steps."""

    loss: jax.Array  # Over examples, of the cross-entropy in nats.
    correct: jax.Array  # Number of examples classified correctly.
    examples: jax.Array
    bad_step: jax.Array  # First step whose loss was not finite, -1 for none.
    by_class: jax.Array | None = None  # Of `correct`, [num_classes]; None of steps of training.
    logits: jax.Array | None = None  # Of the last batch, [batch, num_classes]; likewise.

    @staticmethod
    def zero() -> "Sums":
        return Sums(jnp.float32(0), jnp.int32(0), jnp.int32(0), jnp.int32(-1))


def percent(sums: Sums) -> float:
    """Accuracy in percent."""
    return 100.0 * int(sums.correct) / int(sums.examples)


def mean_loss(sums: Sums) -> float:
    """Mean cross-entropy in nats."""
    return float(sums.loss) / int(sums.examples)


Trained = tuple[TrainState, Sums]


class Recipe(NamedTuple):
    """What a training step is made of; hashable, fixed for a run."""

    network: Network  # Its depths are the capacities.
    # Without its learning rate, or a function of it.
    optimizer: optax.GradientTransformation | Steps
    preprocessing: Preprocessing
    batch_size: int  # Over all devices.
    ema: float  # Decay of the weights' average, 0 for none.
    parallel: str  # Statistics of the whole batch ("jit") or of each device's part ("pmap").
    mesh: Mesh  # The devices.
    # Whether all of `network`'s blocks are live: depth is in the program, as are numbers of steps.
    exact: bool = False
    evaluation_batch_size: int = 0  # Images at once; 0 for as many as a step trains on.
    loss: Loss = LOSSES["cross_entropy"]
    # (key, images uint8 [N, H, W, C]) -> images of this shape, pixels 0..255; None is `augment`.
    augmentation: Augmentation | None = None
    accumulation: int = 1  # Parts of a batch, taken one after the other.

    def transformation(self, rate: Any = 1.0) -> optax.GradientTransformationExtraArgs:
        """The optimiser at a learning rate, which makes no difference to its state's form."""
        return optax.with_extra_args_support(as_steps(self.optimizer)(rate))

    def augment(self, key: jax.Array, images: jax.Array) -> jax.Array:
        """Augments uint8 [N, H, W, C]; UserError where a user's own function returns no images."""
        if self.augmentation is None:
            return augment(key, images, self.preprocessing)
        found = jnp.asarray(self.augmentation(key, images))
        is_number = found.dtype == jnp.uint8 or jnp.issubdtype(found.dtype, jnp.floating)
        if found.shape != images.shape or not is_number:
            raise UserError(
                f"the augmentation gives {found.dtype} {list(found.shape)} for images"
                f" {images.dtype} {list(images.shape)}; it takes images of the same shape, uint8 or"
                " floats from 0 to 255"
            )
        return found

    def live(self, depths: jax.Array) -> jax.Array | None:
        """What the network takes for its depth, int32 [num_stages]."""
        return None if self.exact else depths

    @property
    def images_evaluated_at_once(self) -> int:
        return self.evaluation_batch_size or self.batch_size


def _update(recipe: Recipe, state: TrainState, images, labels, depths, learning_rate, mask):
    """One step on [N, H, W, C] images, pixels 0..255, that are augmented already."""
    network = recipe.network
    images = normalize(images, recipe.preprocessing)

    def differentiate(stats, images, labels):
        def loss_fn(params):
            logits, updated = network.apply(
                {"params": params, "batch_stats": stats},
                images,
                train=True,
                live_depths=recipe.live(depths),
                mutable=["batch_stats"],
            )
            losses = measure_loss(recipe.loss, logits, labels)
            correct = jnp.sum(jnp.argmax(logits, -1) == labels, dtype=jnp.int32)
            return jnp.mean(losses), (correct, updated.get("batch_stats", stats))

        return jax.value_and_grad(loss_fn, has_aux=True)(state.params)

    spread = partial(split_batch, mesh=recipe.mesh) if recipe.parallel == "jit" else jnp.asarray
    given = recipe.accumulation, state.batch_stats, (images, labels), spread
    (loss, (correct, stats)), grads = differentiate_parts(differentiate, *given)
    if recipe.parallel == "pmap":
        grads, stats, loss = lax.pmean((grads, stats, loss), AXIS)
        correct = lax.psum(correct, AXIS)
    if mask is not None:
        grads = jax.tree.map(jnp.multiply, grads, mask.params)
        trees = stats, state.batch_stats, mask.batch_stats
        stats = jax.tree.map(lambda new, old, m: new * m + old * (1 - m), *trees)
    step = recipe.transformation(learning_rate)
    more = {"value": loss, "grad": grads}
    updates, opt_state = step.update(grads, state.opt_state, state.params, **more)
    if mask is not None:
        updates = jax.tree.map(jnp.multiply, updates, mask.params)
    params = jax.tree.map(lambda p, u: (p + u).astype(p.dtype), state.params, updates)
    ema = state.ema
    if recipe.ema:
        ema = jax.tree.map(lambda e, p: recipe.ema * e + (1 - recipe.ema) * p, ema, params)
    return TrainState(params, stats, opt_state, ema), loss, correct


class Mask(NamedTuple):
    """Which leaves a step may change, 1 or 0, of shapes that broadcast to the leaves."""

    params: Tree
    batch_stats: Tree


def _train_on(recipe: Recipe, trained, batch, key, depths, rate, step, mask) -> Trained:
    """One step on uint8 images [N, H, W, C]: the whole batch, under "pmap" this device's part."""
    (state, sums), (images, labels) = trained, batch
    key = jax.random.fold_in(key, step)
    if recipe.parallel == "jit":
        images, labels = split_batch(images, recipe.mesh), split_batch(labels, recipe.mesh)
    elif recipe.mesh.size > 1:  # Each device's own draws; one device draws as "jit" does.
        key = jax.random.fold_in(key, lax.axis_index(AXIS))
    images = recipe.augment(key, images)
    state, loss, correct = _update(recipe, state, images, labels, depths, rate, mask)
    bad = jnp.where((sums.bad_step < 0) & ~jnp.isfinite(loss), step, sums.bad_step)
    count = recipe.batch_size
    return state, Sums(sums.loss + loss * count, sums.correct + correct, sums.examples + count, bad)


def make_train_steps(recipe: Recipe, known_steps: int | None = None) -> Callable[..., Trained]:
    """Makes the function that trains for some steps; to be jitted, its first argument donated.

    Args:
      known_steps: how many, whatever it is told in `steps`; None to do as it is told.

    Returns:
      train_steps(state, sums, images, labels, order, key, depths, rate, first, steps, mask=None) ->
      (state, sums): images uint8 [M, H, W, C] and labels int32 [M] hold the whole set, order int32
      [N] the epoch's permutation of training examples, depths int32 [num_stages]; steps first to
      first + steps - 1 are taken. `sums` goes in and out, so that an epoch's sums do not depend on
      how many calls it was cut into.
    """

    def train_steps(state, sums, images, labels, order, key, depths, rate, first, steps, mask=None):
        def body(i, carry):
            step = first + i
            row, size = _own_rows(recipe)
            chosen = lax.dynamic_slice_in_dim(order, step * recipe.batch_size + row, size)
            batch = images[chosen], labels[chosen]
            return _train_on(recipe, carry, batch, key, depths, rate, step, mask)

        turns = steps if known_steps is None else known_steps
        return lax.fori_loop(0, turns, body, (state, sums))

    return _everywhere(train_steps, recipe)


def make_batch_step(recipe: Recipe) -> Callable[..., Trained]:
    """The same for a batch that comes from the host, where the set does not fit on the device.

    Returns:
      batch_step(state, sums, images, labels, key, depths, rate, step, mask=None) -> (state, sums)
      with images uint8 [batch_size, H, W, C], which lie as `spread_batch` puts them.
    """

    def batch_step(state, sums, images, labels, key, depths, rate, step, mask=None):
        batch = images, labels
        return _train_on(recipe, (state, sums), batch, key, depths, rate, step, mask)

    return _everywhere(batch_step, recipe, parted=(2, 3))


def _own_rows(recipe: Recipe) -> tuple[Any, int]:
    """First row and number of rows of a batch that the program which is traced trains on."""
    if recipe.parallel == "jit":
        return 0, recipe.batch_size
    size = recipe.batch_size // recipe.mesh.size
    return lax.axis_index(AXIS) * size, size


def _everywhere(function: Callable, recipe: Recipe, parted: tuple[int, ...] = ()) -> Callable:
    """Under "pmap": runs `function` on every device with its part of some arguments, all others."""
    if recipe.parallel == "jit":
        return function
    own, whole = PartitionSpec(AXIS), PartitionSpec()

    def everywhere(*given):
        places = tuple(own if i in parted else whole for i in range(len(given)))
        made = jax.shard_map(
            function, mesh=recipe.mesh, in_specs=places, out_specs=whole, check_vma=False
        )
        return made(*given)

    return everywhere


def make_evaluate(recipe: Recipe, known_batches: int | None = None) -> Callable[..., Sums]:
    """Makes the evaluation of a range of examples in one program; to be jitted.

    Args:
      known_batches: how many of `recipe.images_evaluated_at_once` hold them; None to count them.

    Returns:
      evaluate(variables, images, labels, first, count, depths, rows=None, sums=None) -> `sums` with
      those over the examples first to first + count - 1 of images uint8 [M, H, W, C], or of `rows`
      of them, int32, without augmentation and with running statistics.
    """
    batch_size, mesh = recipe.images_evaluated_at_once, recipe.mesh

    def evaluate(variables, images, labels, first, count, depths, rows=None, sums=None):
        def body(i, sums):
            offsets = i * batch_size + jnp.arange(batch_size)
            # The last batch is filled up with examples that then count for nothing.
            chosen = first + jnp.minimum(offsets, count - 1)
            chosen = chosen if rows is None else rows[chosen]
            batch = normalize(split_batch(images[chosen], mesh), recipe.preprocessing)
            live = recipe.live(depths)
            logits: Any = recipe.network.apply(variables, batch, train=False, live_depths=live)
            wanted = labels[chosen]
            valid = offsets < count
            losses = measure_loss(recipe.loss, logits, wanted)
            loss = jnp.sum(jnp.where(valid, losses, 0.0))
            right = (valid & (jnp.argmax(logits, -1) == wanted)).astype(jnp.int32)
            seen = sums.examples + jnp.sum(valid, dtype=jnp.int32)
            by_class = sums.by_class.at[wanted].add(right)
            correct = sums.correct + jnp.sum(right)
            logits = replicate(logits, mesh) if mesh.size > 1 else logits
            return Sums(sums.loss + loss, correct, seen, sums.bad_step, by_class, logits)

        num_batches = known_batches or (count + batch_size - 1) // batch_size
        if sums is None:
            by_class = jnp.zeros(recipe.network.num_classes, jnp.int32)
            sums = Sums.zero()._replace(by_class=by_class)
        logits = jnp.zeros((batch_size, recipe.network.num_classes), jnp.float32)
        return lax.fori_loop(0, num_batches, body, sums._replace(logits=logits))

    return evaluate


def choose_evaluation_batch_size(batch_size: int, num_examples: int, num_devices: int) -> int:
    """At most `batch_size`: in no more batches, as few images as possible fill up the last.

    >>> choose_evaluation_batch_size(128, 285, 1)
    96
    """
    # Also a multiple of eight, for the registers and tiles of most processors.
    unit = 8 * num_devices
    batches = -(-num_examples // batch_size)
    return min(batch_size, -(-num_examples // (batches * unit)) * unit)


@partial(jax.jit, static_argnums=(1,))
def epoch_order(key: jax.Array, num_examples: int) -> jax.Array:
    """The order of an epoch's training examples: a permutation, int32 [num_examples]."""
    return jax.random.permutation(key, num_examples).astype(jnp.int32)
