"""Brings examples to the programs: from arrays on the device; `host_feed` does from the host.

Both feeds give the same batches in the same order, as both read the same permutation. A feed keeps
no account of the run: what to train with comes as a recipe at each call.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial, reduce
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from autogrow_jax.data import Dataset
from autogrow_jax.steps.programs import Programs
from autogrow_jax.steps.state import TrainState, replicate
from autogrow_jax.steps.step import (
    Mask,
    Recipe,
    Sums,
    Trained,
    epoch_order,
    make_evaluate,
    make_train_steps,
)

# About so long runs one dispatch while somebody watches the bar.
SECONDS_PER_DISPATCH = 0.5

Arguments = tuple[Any, ...]
Batch = tuple[jax.Array, jax.Array]  # Images uint8 [N, H, W, C] and labels int32 [N].
Progress = Callable[[int, int], None]


class Epoch(NamedTuple):
    """What one epoch of training is given."""

    order_key: jax.Array  # Decides the permutation.
    augment_key: jax.Array  # Decides crops and flips.
    depths: jax.Array  # Live, int32 [num_stages].
    learning_rate: float


class Feed:
    """Trains for epochs and evaluates parts of a data set: "train", "validation" and "test".

    All later recipes have the batch size and the devices of the first.
    """

    steps_per_epoch: int  # Whole batches in the training part.
    most_steps: int  # That one dispatch takes.
    _known_batches: int  # That one call evaluates, if the recipe is exact.

    def __init__(self, dataset: Dataset, recipe: Recipe, programs: Programs):
        self._num_train, self._shape = len(dataset.train.labels), dataset.image_shape
        self.steps_per_epoch = self.most_steps = self._num_train // recipe.batch_size
        self._batch_size, self._mesh = recipe.batch_size, recipe.mesh
        self._evaluated_at_once = recipe.images_evaluated_at_once
        self._programs = programs
        self._steps_while_watched = 1

    def train_epoch(
        self,
        recipe: Recipe,
        state: TrainState,
        epoch: Epoch,
        progress: Progress | None = None,
        mask: Mask | None = None,
    ) -> Trained:
        """Trains a state, of the recipe's capacities and optimiser, for an epoch; it is donated.

        Now and then calls `progress(steps_done, images_done)`; of an exact recipe, whose numbers of
        steps are in the program, after the epoch. The steps change what `mask` allows, None being
        all.
        """
        kind = "train" if mask is None else "pretrain"
        order, masks = self._order(epoch), () if mask is None else (mask,)
        sums, total, done = replicate(Sums.zero(), self._mesh), self.steps_per_epoch, 0
        while done < total:
            # Several processes do the same, and not each as its own clock says.
            is_whole = progress is None or recipe.exact or self._mesh.is_multi_process
            steps = self.most_steps if is_whole else self._steps_while_watched
            steps = min(steps, total - done)
            function = self._train_program(recipe, steps)
            start, before = self._clock(), sums
            given = *self._train_arguments(epoch, order, done, steps), *masks
            state, sums = self._programs.call(kind, function, state, sums, *given, donate=(0,))
            done += steps
            ended = done
            if not cast(Any, sums.examples).is_ready():
                # The dispatch before this one: the device always has work waiting, and of batches
                # from the host one is on its way, which bounds their memory.
                ended -= steps
                jax.block_until_ready(before)
            if progress is not None and ended:
                progress(ended, ended * self._batch_size)
                seconds = self._clock() - start
                if seconds < SECONDS_PER_DISPATCH / 2:
                    self._steps_while_watched = min(2 * self._steps_while_watched, self.most_steps)
                elif seconds > SECONDS_PER_DISPATCH * 2:
                    self._steps_while_watched = max(1, self._steps_while_watched // 2)
        if progress is not None and (recipe.exact or self._mesh.is_multi_process):
            jax.block_until_ready(sums)
            progress(total, total * self._batch_size)
        return state, sums

    def _clock(self) -> float:
        """Seconds, those spent on compilation left out."""
        return time.perf_counter() - self._programs.seconds

    def evaluate(self, recipe: Recipe, variables: Any, part: str, depths: jax.Array) -> Sums:
        """Returns sums over the "validation" or "test" part."""
        function = self._evaluate_program(recipe)
        program = partial(self._programs.call, "evaluate", function)
        calls = (program(variables, *given) for given in self._evaluate_arguments(part, depths))
        sums = (each._replace(logits=None) for each in calls)
        return reduce(partial(jax.tree.map, jnp.add), sums)

    def predict(self, recipe: Recipe, variables: Any, part: str, depths: jax.Array) -> np.ndarray:
        """Returns the logits of a part, float32 [N, num_classes], as `evaluate` computes them."""
        function, found = self._evaluate_program(recipe, 1), []
        for *data, first, count, live in self._evaluate_arguments(part, depths, 1):
            given = variables, *data, first, count, live
            sums = self._programs.call("evaluate", function, *given)
            found.append(np.asarray(sums.logits)[: int(count)])
        return np.concatenate(found)

    def first_images(self, count: int) -> Batch:
        """Training images uint8 [count, H, W, C] and labels, for initialisers that look at data."""
        raise NotImplementedError

    def compile_ahead(self, recipe: Recipe, state: TrainState, epoch: Epoch) -> None:
        """Compiles in the background what training and validating with a recipe lead to.

        `state` is described, of the recipe's capacities; any epoch will do.
        """
        # In the order in which they will be asked for.
        sums, order = replicate(Sums.zero(), self._mesh), self._order(epoch)
        given, evaluated = self._examples(epoch, order)
        train = self._train_program(recipe, self.most_steps)
        self._programs.compile_ahead(train, state, sums, *given, donate=(0,))
        evaluate = self._evaluate_program(recipe)
        self._programs.compile_ahead(evaluate, state.variables(), *evaluated)

    def _examples(self, epoch: Epoch, order: jax.Array) -> tuple[Arguments, Arguments]:
        """Arguments of training and of evaluation, of which only the shapes matter."""
        evaluated = next(self._evaluate_arguments("validation", epoch.depths))
        return self._train_arguments(epoch, order, 0, 1), evaluated

    def _train_program(self, recipe: Recipe, steps: int) -> Callable[..., Trained]:
        """What trains for so many steps; called with any, if the recipe is not exact."""
        raise NotImplementedError

    def _evaluate_program(self, recipe: Recipe, batches: int = 0) -> Callable[..., Sums]:
        known = (batches or self._known_batches,) if recipe.exact else ()
        return self._programs.make(make_evaluate, recipe, *known)

    def _order(self, epoch: Epoch) -> jax.Array:
        return replicate(epoch_order(epoch.order_key, self._num_train), self._mesh)

    def _train_arguments(self, epoch: Epoch, order: jax.Array, first: int, steps: int) -> Arguments:
        """What a program that trains takes between the sums and the mask."""
        raise NotImplementedError

    def _evaluate_arguments(
        self, part: str, depths: jax.Array, batches: int = 0
    ) -> Iterator[Arguments]:
        """What a program that evaluates takes beside the variables, for each call.

        A call has so many batches, 0 being as many as it can.
        """
        raise NotImplementedError


class DeviceFeed(Feed):
    """The feed of sets that fit on the device: an epoch is one dispatch, a few if it is watched.

    All parts lie one behind the other in one array, so that one program evaluates every part.
    """

    def __init__(self, dataset: Dataset, recipe: Recipe, programs: Programs):
        super().__init__(dataset, recipe, programs)
        parts = dataset.parts
        # Two that are one, as in the paper's protocol, lie there once.
        splits = list({id(split): split for split in parts.values()}.values())
        starts = np.cumsum([0, *(len(split.labels) for split in splits)]).tolist()
        place = {id(split): start for split, start in zip(splits, starts, strict=False)}
        self._range = {name: (place[id(part)], len(part.labels)) for name, part in parts.items()}
        self._known_batches = -(-len(dataset.validation.labels) // self._evaluated_at_once)
        self._is_exact = recipe.exact
        images = np.concatenate([np.asarray(split.images) for split in splits])
        labels = np.concatenate([split.labels for split in splits]).astype(np.int32)
        self._images, self._labels = replicate((images, labels), recipe.mesh)

    def first_images(self, count: int) -> Batch:
        count = min(count, self._num_train)
        return self._images[:count], self._labels[:count]

    def _train_program(self, recipe: Recipe, steps: int) -> Callable[..., Trained]:
        known = (steps,) if recipe.exact else ()
        return self._programs.make(make_train_steps, recipe, *known)

    def _train_arguments(self, epoch: Epoch, order: jax.Array, first: int, steps: int) -> Arguments:
        data = self._images, self._labels, order
        numbers = jnp.float32(epoch.learning_rate), jnp.int32(first), jnp.int32(steps)
        return *data, epoch.augment_key, epoch.depths, *numbers

    def _evaluate_arguments(
        self, part: str, depths: jax.Array, batches: int = 0
    ) -> Iterator[Arguments]:
        start, count = self._range[part]
        # Whatever the part, one program does: where its length is known, in several calls.
        batches = batches or (self._known_batches if self._is_exact else 0)
        piece = batches * self._evaluated_at_once or count
        for first in range(0, count, piece):
            whole = jnp.int32(start + first), jnp.int32(min(piece, count - first))
            yield self._images, self._labels, *whole, depths
