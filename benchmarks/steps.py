"""The three training steps that `depth_as_data` times: ours, and the two it is measured against."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from autogrow_jax.data import Preprocessing
from autogrow_jax.models import Network, build_network
from autogrow_jax.training.optimizer import make_optimizer
from autogrow_jax.training.parallel import make_mesh, replicate
from autogrow_jax.training.programs import Programs
from autogrow_jax.training.state import TrainState, init_state, pad_state
from autogrow_jax.training.step import Recipe, Sums, make_batch_step, make_train_steps
from benchmarks.unrolled import FlaxBlock, Unrolled, unroll

Depths = tuple[int, ...]
_IMAGE_SHAPE = (32, 32, 1)  # MNIST's, once padded.
_LEARNING_RATE = 0.01

OURS = "padded"
SAME_BLOCKS = "unrolled"
FLAX = "flax"


class Bench:
    """The data, the recipe and the executables that all depths share.

    Args:
      batch_size: images a step.
      steps: batches there are, the most steps a call may take.

    Attributes:
      batch_size: images a step.
      programs: the executables of each variant, counted and timed.
    """

    def __init__(self, batch_size: int, steps: int):
        self.batch_size = batch_size
        self._steps = steps
        self._recipe = Recipe(
            network=build_network("plain3", (1, 1, 1), image_channels=_IMAGE_SHAPE[2]),
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
        self._train_steps: dict[Depths, Callable] = {}
        self.programs = {name: Programs() for name in (OURS, SAME_BLOCKS, FLAX)}

    def exact_state(self, depths: Depths) -> TrainState:
        """A random start."""
        network = self._recipe.network.clone(depths=depths)
        init = partial(init_state, network, self._recipe.optimizer)
        state = jax.jit(lambda key: init(key, _IMAGE_SHAPE, False))(self._key)
        return self._replicate(state)

    def padded_state(self, exact: TrainState, capacities: Depths) -> TrainState:
        """What a run trains."""
        network, optimizer = self._recipe.network, self._recipe.optimizer
        return self._replicate(pad_state(exact, network, optimizer, capacities, _IMAGE_SHAPE))

    def unrolled_state(self, exact: TrainState, depths: Depths) -> TrainState:
        """The same values for the unrolled network, in buffers of their own."""
        params = jax.tree.map(jnp.copy, unroll(exact.params, depths))
        stats = jax.tree.map(jnp.copy, unroll(exact.batch_stats, depths))
        return self._replicate(TrainState(params, stats, self._recipe.optimizer.init(params), {}))

    def _replicate(self, tree: Any) -> Any:
        # As the trainer does: where an array lies is part of what a program is compiled for.
        return replicate(tree, self._recipe.mesh)

    def train_padded(
        self, state: TrainState, depths: Depths, capacities: Depths, num_steps: int
    ) -> tuple[TrainState, Sums]:
        """Trains as a run does: one dispatch."""
        if capacities not in self._train_steps:
            network = self._recipe.network.clone(depths=capacities)
            self._train_steps[capacities] = make_train_steps(self._recipe._replace(network=network))
        return self.programs[OURS].call(
            "train",
            self._train_steps[capacities],
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
        network: Any = Unrolled(depths)
        if variant == FLAX:
            network = Unrolled(depths, block=FlaxBlock)
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
