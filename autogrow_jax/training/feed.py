"""Brings examples to the programs: from arrays on the device, or batch by batch from the host.

Both feeds give the same batches in the same order, as both read the same permutation. A feed keeps
no account of the run: what to train with comes as a recipe at each call.
"""

import time
from collections.abc import Callable
from functools import partial, reduce
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from autogrow_jax.data import Dataset, Split
from autogrow_jax.training.parallel import replicate
from autogrow_jax.training.programs import Programs
from autogrow_jax.training.state import TrainState
from autogrow_jax.training.step import (
    Mask,
    Recipe,
    Sums,
    epoch_order,
    make_batch_step,
    make_evaluate,
    make_train_steps,
)

# Sets up to this size are put on the device as a whole.
ON_DEVICE_BYTES = 4 * 2**30
# About so long runs one dispatch while somebody watches the bar.
SECONDS_PER_DISPATCH = 0.5

Progress = Callable[[int, int], None]
# (state, sums, first step, number of steps) -> (state, sums).
TrainFn = Callable[[TrainState, Sums, int, int], Any]


class Epoch(NamedTuple):
    """What one epoch of training is given.

    Attributes:
      order_key: decides the permutation.
      augment_key: decides crops and flips.
      depths: int32 [num_stages], live.
      learning_rate: the epoch's.
    """

    order_key: jax.Array
    augment_key: jax.Array
    depths: jax.Array
    learning_rate: float


def make_feed(dataset: Dataset, recipe: Recipe, programs: Programs, on_device: str) -> "Feed":
    """Makes a feed from the device where the set fits ("auto"), or as "yes" or "no" say."""
    images = [dataset.train.images, dataset.validation.images, dataset.test.images]
    size = sum(array.nbytes for array in images)
    if on_device == "yes" or (on_device == "auto" and size <= ON_DEVICE_BYTES):
        return DeviceFeed(dataset, recipe, programs)
    return HostFeed(dataset, recipe, programs)


class Feed:
    """Trains for epochs and evaluates parts of a data set.

    Args:
      dataset: its parts "train", "validation" and "test".
      recipe: of the run, for the batch size and the devices; all later ones have the same.
      programs: compiles and counts.

    Attributes:
      steps_per_epoch: whole batches in the training part.
    """

    make_train: Callable[[Recipe], Callable[..., tuple[TrainState, Sums]]]

    def __init__(self, dataset: Dataset, recipe: Recipe, programs: Programs):
        self._num_train = len(dataset.train.labels)
        self.steps_per_epoch = self._num_train // recipe.batch_size
        self._batch_size, self._mesh = recipe.batch_size, recipe.mesh
        self._evaluated_at_once = recipe.images_evaluated_at_once
        self._programs = programs
        self._functions: dict[tuple[Any, Recipe], Callable] = {}

    def train_epoch(
        self,
        recipe: Recipe,
        state: TrainState,
        epoch: Epoch,
        progress: Progress | None = None,
        mask: Mask | None = None,
    ) -> tuple[TrainState, Sums]:
        """Trains for an epoch.

        Args:
          recipe: of the step.
          state: of the recipe's capacities and optimiser; donated.
          epoch: which batches, and how fast.
          progress: called now and then as `progress(steps_done, images_done)`.
          mask: what the steps may change; None for all.
        """
        kind = "train" if mask is None else "pretrain"
        function = self._function(type(self).make_train, recipe)
        order = self._order(epoch)
        masks = () if mask is None else (mask,)

        def train(state: TrainState, sums: Sums, first: int, steps: int):
            arguments = self._train_arguments(epoch, order, sums, first, steps)
            return self._programs.call(kind, function, state, *arguments, *masks, donate=(0,))

        return self._run(train, state, replicate(Sums.zero(), self._mesh), progress)

    def evaluate(self, recipe: Recipe, variables: Any, part: str, depths: jax.Array) -> Sums:
        """Returns sums over the "validation" or "test" part."""
        function = self._function(make_evaluate, recipe)
        sums = (
            self._programs.call(
                "evaluate", function, variables, *self._evaluate_arguments(part, depths, first)
            )
            for first in self._evaluation_starts(part)
        )
        return reduce(partial(jax.tree.map, jnp.add), sums)

    def first_images(self, count: int) -> tuple[jax.Array, jax.Array]:
        """Training images uint8 [count, H, W, C] and labels, for initialisers that look at data."""
        raise NotImplementedError

    def compile_ahead(self, recipe: Recipe, state: TrainState, epoch: Epoch) -> None:
        """Compiles in the background what training and validating with a recipe lead to.

        Args:
          recipe: of the present capacity or of another.
          state: of that capacity, as `programs.describe` makes it.
          epoch: any, as training will be given.
        """
        # In the order in which they will be asked for.
        sums = replicate(Sums.zero(), self._mesh)
        arguments = self._train_arguments(epoch, self._order(epoch), sums, 0, 1)
        train = self._function(type(self).make_train, recipe)
        self._programs.compile_ahead(train, state, *arguments, donate=(0,))
        arguments = self._evaluate_arguments("validation", epoch.depths, 0)
        evaluate = self._function(make_evaluate, recipe)
        self._programs.compile_ahead(evaluate, state.variables(), *arguments)

    def _order(self, epoch: Epoch) -> jax.Array:
        return replicate(epoch_order(epoch.order_key, self._num_train), self._mesh)

    def _function(self, make: Callable[[Recipe], Callable], recipe: Recipe) -> Callable:
        # Once for each recipe: a program made ahead is found again by its function.
        key = make, recipe
        if key not in self._functions:
            self._functions[key] = make(recipe)
        return self._functions[key]

    def _train_arguments(
        self, epoch: Epoch, order: jax.Array, sums: Sums, first: int, steps: int
    ) -> tuple[Any, ...]:
        """What a program that trains takes between the state and the mask."""
        raise NotImplementedError

    def _evaluation_starts(self, part: str) -> range:
        """The first image of each call that evaluates a part."""
        raise NotImplementedError

    def _evaluate_arguments(self, part: str, depths: jax.Array, first: int) -> tuple[Any, ...]:
        """What a program that evaluates takes beside the variables."""
        raise NotImplementedError

    def _run(
        self, train: TrainFn, state: TrainState, sums: Sums, progress: Progress | None
    ) -> tuple[TrainState, Sums]:
        """Takes all steps of an epoch."""
        raise NotImplementedError


class DeviceFeed(Feed):
    """The feed of sets that fit on the device: an epoch is one dispatch, a few if it is watched.

    All parts lie one behind the other in one array, so that one program evaluates every part.
    """

    make_train = staticmethod(make_train_steps)

    def __init__(self, dataset: Dataset, recipe: Recipe, programs: Programs):
        super().__init__(dataset, recipe, programs)
        parts = {"train": dataset.train, "validation": dataset.validation}
        if dataset.test is not dataset.validation:
            parts["test"] = dataset.test
        counts = [len(split.labels) for split in parts.values()]
        starts = (sum(counts[:number]) for number in range(len(counts)))
        self._range = dict(zip(parts, zip(starts, counts, strict=True), strict=True))
        self._range.setdefault("test", self._range["validation"])
        images = np.concatenate([np.asarray(split.images) for split in parts.values()])
        labels = np.concatenate([split.labels for split in parts.values()]).astype(np.int32)
        self._images, self._labels = replicate((images, labels), recipe.mesh)
        self._steps_per_dispatch = 1

    def first_images(self, count: int) -> tuple[jax.Array, jax.Array]:
        count = min(count, self._num_train)
        return self._images[:count], self._labels[:count]

    def _run(
        self, train: TrainFn, state: TrainState, sums: Sums, progress: Progress | None
    ) -> tuple[TrainState, Sums]:
        total = self.steps_per_epoch
        if progress is None:
            return train(state, sums, 0, total)
        done = 0
        while done < total:
            steps = min(self._steps_per_dispatch, total - done)
            start, before = self._clock(), sums
            state, sums = train(state, sums, done, steps)
            done += steps
            ended = done
            if not cast(Any, sums.examples).is_ready():
                # The dispatch before this one: the device always has work waiting.
                ended -= steps
                jax.block_until_ready(before)
            if ended:
                progress(ended, ended * self._batch_size)
                self._adapt(self._clock() - start)
        return state, sums

    def _clock(self) -> float:
        """Seconds, those spent on compilation left out."""
        return time.perf_counter() - self._programs.seconds

    def _adapt(self, seconds: float) -> None:
        if seconds < SECONDS_PER_DISPATCH / 2:
            self._steps_per_dispatch *= 2
        elif seconds > SECONDS_PER_DISPATCH * 2:
            self._steps_per_dispatch = max(1, self._steps_per_dispatch // 2)

    def _train_arguments(
        self, epoch: Epoch, order: jax.Array, sums: Sums, first: int, steps: int
    ) -> tuple[Any, ...]:
        data = self._images, self._labels, order
        numbers = jnp.float32(epoch.learning_rate), jnp.int32(first), jnp.int32(steps)
        return sums, *data, epoch.augment_key, epoch.depths, *numbers

    def _evaluation_starts(self, part: str) -> range:
        return range(1)

    def _evaluate_arguments(self, part: str, depths: jax.Array, first: int) -> tuple[Any, ...]:
        whole = (jnp.int32(number) for number in self._range[part])
        return self._images, self._labels, *whole, depths


class HostFeed(Feed):
    """The feed of sets that do not fit: images stay on the host, or in a memory-mapped file."""

    make_train = staticmethod(make_batch_step)

    def __init__(self, dataset: Dataset, recipe: Recipe, programs: Programs):
        super().__init__(dataset, recipe, programs)
        splits = dataset.train, dataset.validation, dataset.test
        self._parts = dict(zip(("train", "validation", "test"), splits, strict=True))

    def first_images(self, count: int) -> tuple[jax.Array, jax.Array]:
        return self._read(self._parts["train"], np.arange(min(count, self._num_train)))

    def _run(
        self, train: TrainFn, state: TrainState, sums: Sums, progress: Progress | None
    ) -> tuple[TrainState, Sums]:
        for step in range(self.steps_per_epoch):
            before = sums
            state, sums = train(state, sums, step, 1)
            # One step in flight, one batch on its way: enough to overlap, bounded in memory.
            jax.block_until_ready(before)
            if progress is not None:
                progress(step, step * self._batch_size)
        return state, sums

    def _train_arguments(
        self, epoch: Epoch, order: jax.Array, sums: Sums, first: int, steps: int
    ) -> tuple[Any, ...]:
        rows = np.asarray(order)[first * self._batch_size :][: steps * self._batch_size]
        rate, batch = jnp.float32(epoch.learning_rate), self._read(self._parts["train"], rows)
        return sums, *batch, epoch.augment_key, epoch.depths, rate, jnp.int32(first)

    def _evaluation_starts(self, part: str) -> range:
        return range(0, len(self._parts[part].labels), self._evaluated_at_once)

    def _evaluate_arguments(self, part: str, depths: jax.Array, first: int) -> tuple[Any, ...]:
        split, size = self._parts[part], self._evaluated_at_once
        count = len(split.labels)
        # The last batch is filled up with images that then count for nothing.
        rows = np.minimum(np.arange(first, first + size), count - 1)
        return *self._read(split, rows), jnp.int32(0), jnp.int32(min(size, count - first)), depths

    def _read(self, split: Split, rows: np.ndarray) -> tuple[jax.Array, jax.Array]:
        # Sorted reading is kinder to a memory map; the order within the batch is put back.
        by_place = np.argsort(rows)
        images = np.empty((len(rows), *split.images.shape[1:]), np.uint8)
        images[by_place] = split.images[rows[by_place]]
        return replicate((images, split.labels[rows].astype(np.int32)), self._mesh)
