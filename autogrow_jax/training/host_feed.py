"""The feed of sets that do not fit on the device: a batch after the other."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from autogrow_jax.data import Dataset, Split
from autogrow_jax.training.feed_programs import Epoch, FeedPrograms, Progress
from autogrow_jax.training.parallel import replicate
from autogrow_jax.training.programs import Programs
from autogrow_jax.training.state import TrainState
from autogrow_jax.training.step import Mask, Recipe, Sums, epoch_order, make_batch_step


class HostFeed(FeedPrograms):
    """Images stay on the host (or in a memory-mapped file) and travel a batch at a time."""

    def __init__(self, dataset: Dataset, recipe: Recipe, programs: Programs):
        self._parts = {
            "train": dataset.train,
            "validation": dataset.validation,
            "test": dataset.test,
        }
        self.steps_per_epoch = len(dataset.train.labels) // recipe.batch_size
        super().__init__(make_batch_step, recipe, programs)

    def train_epoch(
        self,
        state: TrainState,
        epoch: Epoch,
        progress: Progress | None,
        pretrain: tuple[Recipe, Mask] | None = None,
    ) -> tuple[TrainState, Sums]:
        """See `feed.Feed`, as for the rest."""
        kind, function, extra = self._choose(pretrain)
        size = self._recipe.batch_size
        order, sums = self._begin(epoch)
        for step in range(self.steps_per_epoch):
            before = sums
            arguments = self._train_arguments(epoch, order, sums, step, 1)
            state, sums = self._programs.call(
                kind,
                function,
                state,
                *arguments,
                *extra,
                donate=(0,),
            )
            # One step in flight, one batch on its way: enough to overlap, bounded in memory.
            jax.block_until_ready(before)
            if progress is not None:
                progress(step, step * size)
        return state, sums

    def evaluate(self, variables: Any, part: str, depths: jax.Array) -> Sums:
        total: Sums | None = None
        size = self._recipe.images_evaluated_at_once
        for first in range(0, len(self._parts[part].labels), size):
            arguments = self._evaluate_arguments(part, depths, first)
            sums = self._programs.call("evaluate", self._evaluate, variables, *arguments)
            total = sums if total is None else jax.tree.map(jnp.add, total, sums)
        assert total is not None
        return total

    def _begin(self, epoch: Epoch) -> tuple[Any, Sums]:
        order = np.asarray(epoch_order(epoch.order_key, len(self._parts["train"].labels)))
        return order, replicate(Sums.zero(), self._recipe.mesh)

    def _train_arguments(
        self, epoch: Epoch, order: Any, sums: Sums, first: int, steps: int
    ) -> tuple[Any, ...]:
        size = self._recipe.batch_size
        batch = self._batch(self._parts["train"], order[first * size : (first + steps) * size])
        rate, step = jnp.float32(epoch.learning_rate), jnp.int32(first)
        return sums, *batch, epoch.augment_key, epoch.depths, rate, step

    def _evaluate_arguments(self, part: str, depths: jax.Array, first: int = 0) -> tuple[Any, ...]:
        split, size = self._parts[part], self._recipe.images_evaluated_at_once
        count = len(split.labels)
        # The last batch is filled up with images that then count for nothing.
        rows = np.minimum(np.arange(first, first + size), count - 1)
        number = jnp.int32(min(size, count - first))
        return *self._batch(split, rows), jnp.int32(0), number, depths

    def _batch(self, split: Split, rows: np.ndarray) -> tuple[jax.Array, jax.Array]:
        # Sorted reading is kinder to a memory map; the order within the batch is put back.
        by_place = np.argsort(rows)
        images = np.empty((len(rows), *split.images.shape[1:]), np.uint8)
        images[by_place] = split.images[rows[by_place]]
        labels = split.labels[rows].astype(np.int32)
        return replicate((images, labels), self._recipe.mesh)

    def first_images(self, count: int) -> tuple[jax.Array, jax.Array]:
        train = self._parts["train"]
        return self._batch(train, np.arange(min(count, len(train.labels))))
