"""The feed of sets that fit on the device: an epoch is one dispatch, or a few."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from autogrow_jax.data import Dataset
from autogrow_jax.training.feed_programs import Epoch, FeedPrograms, Progress
from autogrow_jax.training.parallel import replicate
from autogrow_jax.training.programs import Programs
from autogrow_jax.training.state import TrainState
from autogrow_jax.training.step import Mask, Recipe, Sums, epoch_order, make_train_steps

# About so long runs one dispatch while somebody watches the bar.
SECONDS_PER_DISPATCH = 0.5


class DeviceFeed(FeedPrograms):
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

    def train_epoch(
        self,
        state: TrainState,
        epoch: Epoch,
        progress: Progress | None,
        pretrain: tuple[Recipe, Mask] | None = None,
    ) -> tuple[TrainState, Sums]:
        """See `feed.Feed`, as for the rest."""
        kind, function, extra = self._choose(pretrain)
        order, sums = self._begin(epoch)
        done, total = 0, self.steps_per_epoch
        before: Sums | None = None
        while done < total:
            steps = (
                total - done if progress is None else min(self._steps_per_dispatch, total - done)
            )
            start = self._clock()
            state, sums = self._programs.call(
                kind,
                function,
                state,
                *self._train_arguments(epoch, order, sums, done, steps),
                *extra,
                donate=(0,),
            )
            done += steps
            if progress is not None:
                ended = done
                if not sums.examples.is_ready():
                    # The dispatch before this one: the device always has work waiting.
                    ended -= steps
                    jax.block_until_ready(before)
                if ended:
                    progress(ended, ended * self._recipe.batch_size)
                    self._adapt(self._clock() - start)
                before = sums
        return state, sums

    def _clock(self) -> float:
        """Seconds, those spent on compilation left out."""
        return time.perf_counter() - self._programs.seconds

    def _begin(self, epoch: Epoch) -> tuple[Any, Sums]:
        mesh = self._recipe.mesh
        order = epoch_order(epoch.order_key, self._range["train"][1])
        return replicate(order, mesh), replicate(Sums.zero(), mesh)

    def _train_arguments(
        self, epoch: Epoch, order: Any, sums: Sums, first: int, steps: int
    ) -> tuple[Any, ...]:
        return (
            sums,
            self._images,
            self._labels,
            order,
            epoch.augment_key,
            epoch.depths,
            jnp.float32(epoch.learning_rate),
            jnp.int32(first),
            jnp.int32(steps),
        )

    def _evaluate_arguments(self, part: str, depths: jax.Array, first: int = 0) -> tuple[Any, ...]:
        start, count = self._range[part]
        whole = jnp.int32(start + first), jnp.int32(count - first)
        return self._images, self._labels, *whole, depths

    def _adapt(self, seconds: float) -> None:
        if seconds < SECONDS_PER_DISPATCH / 2:
            self._steps_per_dispatch *= 2
        elif seconds > SECONDS_PER_DISPATCH * 2:
            self._steps_per_dispatch = max(1, self._steps_per_dispatch // 2)

    def evaluate(self, variables: Any, part: str, depths: jax.Array) -> Sums:
        arguments = self._evaluate_arguments(part, depths)
        return self._programs.call("evaluate", self._evaluate, variables, *arguments)

    def first_images(self, count: int) -> tuple[jax.Array, jax.Array]:
        count = min(count, self._range["train"][1])
        return self._images[:count], self._labels[:count]
