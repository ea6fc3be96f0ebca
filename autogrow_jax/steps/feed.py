"""Brings examples to the programs: from arrays on the device; `host_feed` does from the host.

Both feeds give the same batches in the same order, as both read the same permutation. A feed keeps
no account of the run: what to train with comes as a recipe at each call.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from autogrow_jax.data import Dataset
from autogrow_jax.steps.programs import Programs, most_seconds
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

# About so long runs one dispatch while somebody watches the bar, and while nobody does: a run that
# is told to stop does so between two.
SECONDS_PER_DISPATCH, SECONDS_UNWATCHED = 0.5, 1.0
# An epoch of no more pixels takes no device long; the first is one dispatch.
_FEW_PIXELS = 2**20
# Where no clock is asked how long a dispatch is to be, at most so long on a slow device.
_MOST_SECONDS = 8.0

Arguments = tuple[Any, ...]
Batch = tuple[jax.Array, jax.Array]  # Images uint8 [N, H, W, C] and labels int32 [N].
Progress = Callable[[int, int], None]


class Epoch(NamedTuple):
    """What one epoch of training is given."""

    order_key: jax.Array  # Decides the permutation.
    augment_key: jax.Array  # Decides crops and flips.
    depths: jax.Array  # Live, int32 [num_stages].
    learning_rate: float


class Begun(NamedTuple):
    """An epoch of training so far."""

    state: TrainState
    sums: Sums
    steps: int  # That were done.


class Feed:
    """Trains for epochs and evaluates parts of a data set: "train", "validation" and "test".

    All later recipes have the batch size and the devices of the first.
    """

    steps_per_epoch: int  # Whole batches in the training part.
    most_steps: int  # That one dispatch takes.

    def __init__(self, dataset: Dataset, recipe: Recipe, programs: Programs):
        self._num_train, self._shape = len(dataset.train.labels), dataset.image_shape
        self.steps_per_epoch = self.most_steps = self._num_train // recipe.batch_size
        self._batch_size, self._mesh, self._rows = recipe.batch_size, recipe.mesh, dataset.some_rows
        self._evaluated_at_once = recipe.images_evaluated_at_once
        self._programs = programs
        self._has_few_pixels = self._num_train * int(np.prod(self._shape)) <= _FEW_PIXELS
        self._steps_by_clock = 0  # Unknown.
        self._counted: dict[Any, int] = {}

    def train_epoch(
        self,
        recipe: Recipe,
        state: TrainState,
        epoch: Epoch,
        progress: Progress | None = None,
        mask: Mask | None = None,
        look: Callable[[], None] | None = None,
    ) -> Trained:
        """Trains a state for a whole epoch, as `train` does; calls `look` between dispatches."""
        begun = Begun(state, Sums.zero(), 0)
        for piece in self.train(recipe, begun, epoch, progress, mask):
            state, sums, _ = piece
            if look is not None:
                look()
        return state, sums

    def train(
        self,
        recipe: Recipe,
        begun: Begun,
        epoch: Epoch,
        progress: Progress | None = None,
        mask: Mask | None = None,
    ) -> Iterator[Begun]:
        """Trains a state, of the recipe's capacities and optimiser, for the rest of an epoch.

        The state is donated; how an epoch is cut into dispatches makes no difference to it. Now
        and then calls `progress(steps_done, images_done)`. The steps change what `mask` allows,
        None being all. Yields after each dispatch; several processes after the same ones.
        """
        kind = "train" if mask is None else "pretrain"
        order, masks = self._order(epoch), () if mask is None else (mask,)
        (state, sums, done), total = begun, self.steps_per_epoch
        sums, told = replicate(sums, self._mesh), done
        # Numbers of steps are in the program, or several processes do the same, and not each as its
        # own clock says.
        is_counted = recipe.exact or self._mesh.is_multi_process
        piece = self._count_steps(recipe) if is_counted else total
        wanted = SECONDS_PER_DISPATCH if progress else SECONDS_UNWATCHED
        if not self._steps_by_clock:
            is_quick = self._has_few_pixels and progress is None
            self._steps_by_clock = self.most_steps if is_quick else 1
        while done < total:
            steps = piece - done % piece if is_counted else self._steps_by_clock
            steps = min(steps, self.most_steps, total - done)
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
            if ended > told:
                told = ended
                if progress is not None:
                    progress(ended, ended * self._batch_size)
                seconds = self._clock() - start
                if seconds < wanted / 2:
                    self._steps_by_clock = min(2 * self._steps_by_clock, self.most_steps)
                elif seconds > wanted * 2:
                    self._steps_by_clock = max(1, self._steps_by_clock // 2)
            if done == total or done % piece == 0 or not self._mesh.is_multi_process:
                yield Begun(state, sums, done)
        if progress is not None and is_counted and told < total:
            jax.block_until_ready(sums)
            progress(total, total * self._batch_size)

    def _count_steps(self, recipe: Recipe) -> int:
        """Steps between which a run can be stopped, by what the net multiplies; the last are fewer.

        If possible they divide the epoch, so that one program does.
        """
        depths, total = recipe.network.depths, self.steps_per_epoch
        if self._has_few_pixels:
            return total
        if depths not in self._counted:
            seconds = most_seconds(recipe.network, self._shape, total * self._batch_size)
            least = max(1, min(total, round(seconds / self._mesh.size / _MOST_SECONDS)))
            pieces = next((n for n in range(least, 2 * least) if total % n == 0), least)
            self._counted[depths] = -(-total // pieces)
        return self._counted[depths]

    def _clock(self) -> float:
        """Seconds, those spent on compilation left out."""
        return time.perf_counter() - self._programs.seconds

    def evaluate(
        self,
        recipe: Recipe,
        variables: Any,
        part: str,
        depths: jax.Array,
        look: Callable[[], None] | None = None,
    ) -> Sums:
        """Returns sums over the "validation" or "test" part.

        `look` is called between dispatches, which are no longer than those of training then.
        """
        batches = self._batches_at_once(recipe, look is not None)
        program = partial(self._programs.call, "evaluate", self._evaluate_program(recipe, batches))
        sums = self._no_sums(recipe)
        for number, given in enumerate(self._evaluate_arguments(part, depths, batches)):
            if look is not None and number:
                look()
            start, given = self._clock(), (*given, None, sums)
            sums = jax.block_until_ready(program(variables, *given))._replace(logits=None)
            self._programs.evaluating += self._clock() - start
        return sums

    def _no_sums(self, recipe: Recipe) -> Sums:
        by_class = jnp.zeros(recipe.network.num_classes, jnp.int32)
        return replicate(Sums.zero()._replace(by_class=by_class), self._mesh)

    def predict(self, recipe: Recipe, variables: Any, part: str, depths: jax.Array) -> np.ndarray:
        """Returns the logits of a part, float32 [N, num_classes], as `evaluate` computes them."""
        function, found, no_sums = self._evaluate_program(recipe, 1), [], self._no_sums(recipe)
        for *data, first, count, live in self._evaluate_arguments(part, depths, 1):
            given = variables, *data, first, count, live, None, no_sums
            sums = self._programs.call("evaluate", function, *given)
            found.append(np.asarray(sums.logits)[: int(count)])
        return np.concatenate(found)

    def some_images(self, count: int) -> Batch:
        """Training images uint8 [count, H, W, C] and labels, for initialisers that look at data."""
        raise NotImplementedError

    def compile_ahead(self, recipe: Recipe, state: TrainState, epoch: Epoch) -> None:
        """Compiles in the background what training and validating with a recipe lead to.

        `state` is described, of the recipe's capacities; any epoch will do.
        """
        # In the order in which they will be asked for.
        sums, order = replicate(Sums.zero(), self._mesh), self._order(epoch)
        given, evaluated = self._examples(epoch, order)
        steps = self._count_steps(recipe) if recipe.exact else self.most_steps
        train = self._train_program(recipe, min(steps, self.most_steps))
        self._programs.compile_ahead(train, state, sums, *given, donate=(0,))
        evaluate = self._evaluate_program(recipe, self._batches_at_once(recipe, True))
        more = *evaluated, None, self._no_sums(recipe)
        self._programs.compile_ahead(evaluate, state.variables(), *more)

    def _examples(self, epoch: Epoch, order: jax.Array) -> tuple[Arguments, Arguments]:
        """Arguments of training and of evaluation, of which only the shapes matter."""
        evaluated = next(self._evaluate_arguments("validation", epoch.depths, 1))
        return self._train_arguments(epoch, order, 0, 1), evaluated

    def _train_program(self, recipe: Recipe, steps: int) -> Callable[..., Trained]:
        """What trains for so many steps; called with any, if the recipe is not exact."""
        raise NotImplementedError

    def _evaluate_program(self, recipe: Recipe, batches: int) -> Callable[..., Sums]:
        return self._programs.make(make_evaluate, recipe, *((batches,) if recipe.exact else ()))

    def _batches_at_once(self, recipe: Recipe, is_looked_at: bool) -> int:
        """Batches that one dispatch evaluates; 0 for all, never of an exact recipe."""
        raise NotImplementedError

    def _order(self, epoch: Epoch) -> jax.Array:
        return replicate(epoch_order(epoch.order_key, self._num_train), self._mesh)

    def _train_arguments(self, epoch: Epoch, order: jax.Array, first: int, steps: int) -> Arguments:
        """What a program that trains takes between the sums and the mask."""
        raise NotImplementedError

    def _evaluate_arguments(
        self, part: str, depths: jax.Array, batches: int
    ) -> Iterator[Arguments]:
        """What a program that evaluates takes beside variables and sums, for each dispatch."""
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
        self._batches = -(-len(dataset.validation.labels) // self._evaluated_at_once)
        images = np.concatenate([np.asarray(split.images) for split in splits])
        labels = np.concatenate([split.labels for split in splits]).astype(np.int32)
        self._images, self._labels = replicate((images, labels), recipe.mesh)

    def some_images(self, count: int) -> Batch:
        rows = self._rows(count)  # Training images are the first of all.
        return self._images[rows], self._labels[rows]

    def _train_program(self, recipe: Recipe, steps: int) -> Callable[..., Trained]:
        known = (steps,) if recipe.exact else ()
        return self._programs.make(make_train_steps, recipe, *known)

    def _train_arguments(self, epoch: Epoch, order: jax.Array, first: int, steps: int) -> Arguments:
        data = self._images, self._labels, order
        numbers = jnp.float32(epoch.learning_rate), jnp.int32(first), jnp.int32(steps)
        return *data, epoch.augment_key, epoch.depths, *numbers

    def _batches_at_once(self, recipe: Recipe, is_looked_at: bool) -> int:
        if recipe.exact:  # Whatever the part, one program does, in several calls.
            return min(self._batches, self._count_steps(recipe))
        counted = self._mesh.is_multi_process
        steps = self._count_steps(recipe) if counted else self._steps_by_clock
        return steps if is_looked_at and 0 < steps < self.steps_per_epoch else 0

    def _evaluate_arguments(
        self, part: str, depths: jax.Array, batches: int
    ) -> Iterator[Arguments]:
        start, count = self._range[part]
        piece = batches * self._evaluated_at_once or count
        for first in range(0, count, piece):
            whole = jnp.int32(start + first), jnp.int32(min(piece, count - first))
            yield self._images, self._labels, *whole, depths
