"""The training steps that `depth_as_data` times: ours, and those it is measured against."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from autogrow_jax.data import Preprocessing
from autogrow_jax.models import Network, build_network
from autogrow_jax.optim import make_optimizer
from autogrow_jax.steps.programs import Programs
from autogrow_jax.steps.state import TrainState, init_state, make_mesh, pad_state, replicate
from autogrow_jax.steps.step import Recipe, Sums, make_batch_step, make_train_steps
from benchmarks.rival_stacks import conditional_stacks
from benchmarks.unrolled import FlaxBlock, Unrolled, unroll

Depths = tuple[int, ...]
_IMAGE_SHAPE = (32, 32, 1)  # MNIST's, once padded.
_LEARNING_RATE = 0.01

# One program for all depths up to a capacity: a loop of as many turns as there are blocks, or a
# turn for each slot, with a condition.
OURS, CONDITION = "padded", "cond"
# A program for each depth: a scan over the blocks, or the blocks one after the other, or these from
# Flax's own layers.
EXACT, SAME_BLOCKS, FLAX = "exact", "unrolled", "flax"
RIVALS = (EXACT, CONDITION, SAME_BLOCKS, FLAX)
# Compiled once for each depth.
FOR_EACH_DEPTH = (EXACT, SAME_BLOCKS, FLAX)


class Bench:
    """The data, the recipe and the executables that all depths share.

    Args:
      batch_size: images a step.
      steps: batches there are, the most steps a call may take.
      family: "plain3" or "basic3".
      convolution: "xla" or "native".
      dtype: of the computation.
      variants: steps to make; by default all there are.

    Attributes:
      batch_size: images a step.
      variants: names of the steps there are.
      programs: the executables of each variant, counted and timed.
      tolerance: how far losses of two variants may be apart, relative.
    """

    def __init__(
        self,
        batch_size: int,
        steps: int,
        family: str = "plain3",
        convolution: str = "xla",
        dtype: str = "float32",
        variants: Sequence[str] | None = None,
    ):
        self.batch_size = batch_size
        self._steps = steps
        self._recipe = Recipe(
            network=build_network(
                family,
                (1, 1, 1),
                image_channels=_IMAGE_SHAPE[2],
                convolution=convolution,
                dtype=dtype,
            ),
            optimizer=make_optimizer("sgd", momentum=0.9, weight_decay=5e-4),
            preprocessing=Preprocessing((0.0,), (1.0,), crop_padding=0, flip=False),
            batch_size=batch_size,
            ema=0.0,
            parallel="jit",
            mesh=make_mesh(1, batch_size),
        )
        rng = np.random.default_rng(0)
        total = batch_size * steps
        self._images = self._replicate(rng.integers(0, 256, (total, *_IMAGE_SHAPE), np.uint8))
        self._labels = self._replicate(rng.integers(0, 10, total, np.int32))
        self._order = self._replicate(np.arange(total, dtype=np.int32))
        self._key = jax.random.key(0)
        self._train_steps: dict[tuple[str, Depths, int | None], Callable] = {}
        # Flax's layers are those of a plain block, with XLA's convolutions, in float32.
        has_flax = (family, convolution, dtype) == ("plain3", "xla", "float32")
        self.variants = [name for name in variants or (OURS, *RIVALS) if name != FLAX or has_flax]
        self.programs = {name: Programs() for name in self.variants}
        # Of losses, relative: sums run in another order in each program, on a GPU in TF32 too.
        is_exact = dtype == "float32" and jax.default_backend() == "cpu"
        self.tolerance = 1e-3 if is_exact else 3e-2

    def exact_state(self, depths: Depths) -> TrainState:
        """A random start."""
        network = self._recipe.network.clone(depths=depths)
        init = partial(init_state, network, self._recipe.optimizer)
        state = jax.jit(lambda key: init(key, _IMAGE_SHAPE, False))(self._key)
        return self._replicate(state)

    def padded_state(self, exact: TrainState, capacities: Depths) -> TrainState:
        """What a run trains."""
        network, optimizer = self._recipe.network.clone(depths=capacities), self._recipe.optimizer
        init = partial(init_state, network, optimizer)
        room = jax.eval_shape(lambda: init(self._key, _IMAGE_SHAPE, False))
        return self._replicate(pad_state(exact, room))

    def unrolled_state(self, exact: TrainState, depths: Depths) -> TrainState:
        """The same values for the unrolled network, in buffers of their own."""
        params = jax.tree.map(jnp.copy, unroll(exact.params, depths))
        stats = jax.tree.map(jnp.copy, unroll(exact.batch_stats, depths))
        return self._replicate(TrainState(params, stats, self._recipe.optimizer.init(params), {}))

    def _replicate(self, tree: Any) -> Any:
        # As the trainer does: where an array lies is part of what a program is compiled for.
        return replicate(tree, self._recipe.mesh)

    def train_stacked(
        self, variant: str, state: TrainState, depths: Depths, capacities: Depths, num_steps: int
    ) -> tuple[TrainState, Sums]:
        """Trains as a run does, in one dispatch; `capacities` are the depths where "exact"."""
        known = num_steps if variant == EXACT else None  # As a run has it.
        key = variant, capacities, known
        if key not in self._train_steps:
            network = self._recipe.network.clone(depths=capacities)
            recipe = self._recipe._replace(network=network, exact=variant == EXACT)
            self._train_steps[key] = make_train_steps(recipe, known)
        with conditional_stacks() if variant == CONDITION else nullcontext():
            return self._dispatch(variant, self._train_steps[key], state, depths, num_steps)

    def _dispatch(
        self,
        variant: str,
        train_steps: Callable,
        state: TrainState,
        depths: Depths,
        num_steps: int,
    ) -> tuple[TrainState, Sums]:
        return self.programs[variant].call(
            "train",
            train_steps,
            state,
            self._replicate(Sums.zero()),
            self._images,
            self._labels,
            self._order,
            self._key,
            self._replicate(jnp.asarray(depths, jnp.int32)),
            jnp.float32(_LEARNING_RATE),
            jnp.int32(0),
            jnp.int32(num_steps),
            donate=(0,),
        )

    def make_unrolled(self, depths: Depths, variant: str) -> Callable:
        """The step of the unrolled network: (state, num_steps) -> (state, sums)."""
        family, options = self._recipe.network.family, self._recipe.network.options
        block = FlaxBlock if variant == FLAX else None
        network: Any = Unrolled(depths, family, block, options)
        # The package's own step: what surrounds the network is then the same.
        step = make_batch_step(self._recipe._replace(network=cast(Network, network)))
        size = self.batch_size
        batches = [
            (self._images[i * size : (i + 1) * size], self._labels[i * size : (i + 1) * size])
            for i in range(self._steps)
        ]
        live, rate = self._replicate(jnp.asarray(depths, jnp.int32)), jnp.float32(_LEARNING_RATE)

        def train(state: TrainState, num_steps: int) -> tuple[TrainState, Sums]:
            # A dispatch a step: in a loop Flax's convolutions would be slower many times over.
            sums = self._replicate(Sums.zero())
            for number, batch in enumerate(batches[:num_steps]):
                state, sums = self.programs[variant].call(
                    "train",
                    step,
                    state,
                    sums,
                    *batch,
                    self._key,
                    live,
                    rate,
                    jnp.int32(number),
                    donate=(0,),
                )
            return state, sums

        return train

    def make_turns(
        self, variant: str, exact: TrainState, depths: Depths, capacities: Depths
    ) -> "Turns":
        """A variant that trains on, from the values of `exact`."""
        if variant in (SAME_BLOCKS, FLAX):
            state = self.unrolled_state(exact, depths)
            return Turns(self.make_unrolled(depths, variant), state, self._steps)
        room = depths if variant == EXACT else capacities

        def train(state: TrainState, num_steps: int) -> tuple[TrainState, Sums]:
            return self.train_stacked(variant, state, depths, room, num_steps)

        return Turns(train, self.padded_state(exact, room), self._steps)


class Turns:
    """Trains on from where it was, whenever called.

    Args:
      train: (state, num_steps) -> (state, sums).
      state: to begin with; given away.
      steps: of a call.
    """

    def __init__(self, train: Callable, state: TrainState, steps: int):
        self._train, self._state, self._steps = train, state, steps

    def __call__(self, steps: int | None = None) -> Sums:
        """Trains for `steps`, by default as many as it was made with."""
        steps = self._steps if steps is None else steps
        self._state, sums = self._train(self._state, steps)
        return sums
