"""Brings examples to the training step: from arrays on the device, or batch by batch from the host.

Both give the same batches in the same order, as both read the same permutation.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from autogrow_jax.data import Dataset
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


class Feed(Protocol):
    """Trains for epochs and evaluates parts of a data set."""

    steps_per_epoch: int

    def prepare(self, recipe: Recipe) -> None:
        """Makes the functions for a recipe; call it again when the capacity changes."""
        ...

    def compile_ahead(self, recipe: Recipe, state: TrainState) -> None:
        """Compiles in the background what `prepare(recipe)` will lead to.

        Args:
          recipe: of another capacity.
          state: of that capacity, as `describe` makes it.
        """
        ...

    def train_epoch(
        self,
        state: TrainState,
        epoch: Epoch,
        progress: Progress | None,
        pretrain: tuple[Recipe, Mask] | None = None,
    ) -> tuple[TrainState, Sums]:
        """One epoch; `progress(steps_done, images_done)` is called now and then."""
        ...

    def evaluate(self, variables: Any, part: str, depths: jax.Array) -> Sums:
        """Sums over the "validation" or "test" part."""
        ...

    def first_images(self, count: int) -> tuple[jax.Array, jax.Array]:
        """Training images uint8 [count, H, W, C] and labels, for initialisers that look at data."""
        ...


def make_feed(dataset: Dataset, recipe: Recipe, programs: Programs, on_device: str) -> Feed:
    """A feed from the device where the set fits ("auto"), or as "yes" or "no" say."""
    images = [dataset.train.images, dataset.validation.images, dataset.test.images]
    size = sum(array.nbytes for array in images)
    if on_device == "yes" or (on_device == "auto" and size <= ON_DEVICE_BYTES):
        return DeviceFeed(dataset, recipe, programs)
    return HostFeed(dataset, recipe, programs)


class _Functions:
    """The functions of a recipe, others when the capacity changes."""

    def __init__(
        self, make_train: Callable[[Recipe], Callable], recipe: Recipe, programs: Programs
    ):
        self._make_train = make_train
        self._programs = programs
        self._made: dict[Recipe, tuple[Callable, Callable]] = {}
        self.prepare(recipe)

    def prepare(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._train, self._evaluate = self._make(recipe)
        self._pretrain: Callable | None = None

    def _make(self, recipe: Recipe) -> tuple[Callable, Callable]:
        # Once for each recipe: a program made ahead is found again by its function.
        if recipe not in self._made:
            self._made[recipe] = self._make_train(recipe), make_evaluate(recipe)
        return self._made[recipe]

    def compile_ahead(self, recipe: Recipe, state: TrainState) -> None:
        train, evaluate = self._make(recipe)
        variables = state.variables()
        # In the order in which they will be asked for. All else they take does not depend on the
        # capacity; what was not called yet is left to the foreground.
        if (arguments := self._programs.arguments("train")) is not None:
            self._programs.compile_ahead(train, state, *arguments[1:], donate=(0,))
        if (arguments := self._programs.arguments("evaluate")) is not None:
            self._programs.compile_ahead(evaluate, variables, *arguments[1:])

    def _choose(self, pretrain: tuple[Recipe, Mask] | None):
        """Kind, function and further arguments of the step to train with."""
        if pretrain is None:
            return "train", self._train, ()
        recipe, mask = pretrain
        if self._pretrain is None:
            self._pretrain = self._make_train(recipe)
        return "pretrain", self._pretrain, (mask,)


class DeviceFeed(_Functions):
    """All parts lie one behind the other in one array on the device.

    So one program evaluates every part, and an epoch is a few dispatches.
    """

    def __init__(self, dataset: Dataset, recipe: Recipe, programs: Programs):
        parts = {"train": dataset.train, "validation": dataset.validation}
        if dataset.test is not dataset.validation:
            parts["test"] = dataset.test
        self._range: dict[str, tuple[int, int]] = {}
        first = 0
        for name, split in parts.items():
            self._range[name] = (first, len(split.labels))
            first += len(split.labels)
        self._range.setdefault("test", self._range["validation"])
        images = np.concatenate([np.asarray(split.images) for split in parts.values()])
        labels = np.concatenate([split.labels for split in parts.values()]).astype(np.int32)
        self._images, self._labels = replicate((images, labels), recipe.mesh)
        self._steps_per_dispatch = 1
        self.steps_per_epoch = len(dataset.train.labels) // recipe.batch_size
        super().__init__(make_train_steps, recipe, programs)

    def train_epoch(self, state, epoch, progress, pretrain=None):
        kind, function, extra = self._choose(pretrain)
        mesh = self._recipe.mesh
        order = replicate(epoch_order(epoch.order_key, self._range["train"][1]), mesh)
        sums = replicate(Sums.zero(), mesh)
        done, total = 0, self.steps_per_epoch
        before: Sums | None = None
        while done < total:
            steps = (
                total - done if progress is None else min(self._steps_per_dispatch, total - done)
            )
            start = time.perf_counter()
            state, sums = self._programs.call(
                kind,
                function,
                state,
                sums,
                self._images,
                self._labels,
                order,
                epoch.augment_key,
                epoch.depths,
                jnp.float32(epoch.learning_rate),
                jnp.int32(done),
                jnp.int32(steps),
                *extra,
                donate=(0,),
            )
            done += steps
            if progress is not None:
                if before is not None:
                    # The dispatch before this one: the device always has work waiting.
                    jax.block_until_ready(before)
                    progress(done - steps, (done - steps) * self._recipe.batch_size)
                    self._adapt(time.perf_counter() - start)
                before = sums
        return state, sums

    def _adapt(self, seconds: float) -> None:
        if seconds < SECONDS_PER_DISPATCH / 2:
            self._steps_per_dispatch *= 2
        elif seconds > SECONDS_PER_DISPATCH * 2:
            self._steps_per_dispatch = max(1, self._steps_per_dispatch // 2)

    def evaluate(self, variables, part, depths):
        first, count = self._range[part]
        return self._programs.call(
            "evaluate",
            self._evaluate,
            variables,
            self._images,
            self._labels,
            jnp.int32(first),
            jnp.int32(count),
            depths,
        )

    def first_images(self, count):
        count = min(count, self._range["train"][1])
        return self._images[:count], self._labels[:count]


class HostFeed(_Functions):
    """Images stay on the host (or in a memory-mapped file) and travel a batch at a time."""

    def __init__(self, dataset: Dataset, recipe: Recipe, programs: Programs):
        self._parts = {
            "train": dataset.train,
            "validation": dataset.validation,
            "test": dataset.test,
        }
        self.steps_per_epoch = len(dataset.train.labels) // recipe.batch_size
        super().__init__(make_batch_step, recipe, programs)

    def train_epoch(self, state, epoch, progress, pretrain=None):
        kind, function, extra = self._choose(pretrain)
        train, size = self._parts["train"], self._recipe.batch_size
        order = np.asarray(epoch_order(epoch.order_key, len(train.labels)))
        sums = replicate(Sums.zero(), self._recipe.mesh)
        for step in range(self.steps_per_epoch):
            before = sums
            batch = self._batch(train, order[step * size : (step + 1) * size])
            state, sums = self._programs.call(
                kind,
                function,
                state,
                sums,
                *batch,
                epoch.augment_key,
                epoch.depths,
                jnp.float32(epoch.learning_rate),
                jnp.int32(step),
                *extra,
                donate=(0,),
            )
            # One step in flight, one batch on its way: enough to overlap, bounded in memory.
            jax.block_until_ready(before)
            if progress is not None:
                progress(step, step * size)
        return state, sums

    def evaluate(self, variables, part, depths):
        split, size = self._parts[part], self._recipe.batch_size
        count = len(split.labels)
        total: Sums | None = None
        for first in range(0, count, size):
            rows = np.minimum(np.arange(first, first + size), count - 1)
            sums = self._programs.call(
                "evaluate",
                self._evaluate,
                variables,
                *self._batch(split, rows),
                jnp.int32(0),
                jnp.int32(min(size, count - first)),
                depths,
            )
            total = sums if total is None else jax.tree.map(jnp.add, total, sums)
        assert total is not None
        return total

    def _batch(self, split, rows):
        # Sorted reading is kinder to a memory map; the order within the batch is put back.
        by_place = np.argsort(rows)
        images = np.empty((len(rows), *split.images.shape[1:]), np.uint8)
        images[by_place] = split.images[rows[by_place]]
        labels = split.labels[rows].astype(np.int32)
        return replicate((images, labels), self._recipe.mesh)

    def first_images(self, count):
        train = self._parts["train"]
        return self._batch(train, np.arange(min(count, len(train.labels))))
