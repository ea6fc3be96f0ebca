"""What a feed is asked for, and the programs that every feed calls."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from autogrow_jax.training.programs import Programs
from autogrow_jax.training.state import TrainState
from autogrow_jax.training.step import Mask, Recipe, Sums, make_evaluate

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


class FeedPrograms:
    """The functions of a recipe, others when the capacity changes."""

    def __init__(
        self, make_train: Callable[[Recipe], Callable], recipe: Recipe, programs: Programs
    ):
        self._make_train = make_train
        self._programs = programs
        self._made: dict[Recipe, tuple[Callable, Callable]] = {}
        self.prepare(recipe)

    def prepare(self, recipe: Recipe) -> None:
        """See `feed.Feed`."""
        self._recipe = recipe
        self._train, self._evaluate = self._make(recipe)
        self._pretrain: Callable | None = None

    def _make(self, recipe: Recipe) -> tuple[Callable, Callable]:
        # Once for each recipe: a program made ahead is found again by its function.
        if recipe not in self._made:
            self._made[recipe] = self._make_train(recipe), make_evaluate(recipe)
        return self._made[recipe]

    def compile_ahead(self, recipe: Recipe, state: TrainState, epoch: Epoch) -> None:
        """See `feed.Feed`."""
        train, evaluate = self._make(recipe)
        # In the order in which they will be asked for.
        arguments = self._train_arguments(epoch, *self._begin(epoch), 0, 1)
        self._programs.compile_ahead(train, state, *arguments, donate=(0,))
        arguments = self._evaluate_arguments("validation", epoch.depths)
        self._programs.compile_ahead(evaluate, state.variables(), *arguments)

    def _begin(self, epoch: Epoch) -> tuple[Any, Sums]:
        """The order of an epoch's images, and sums of none."""
        raise NotImplementedError

    def _train_arguments(
        self, epoch: Epoch, order: Any, sums: Sums, first: int, steps: int
    ) -> tuple[Any, ...]:
        """What a program that trains takes beside the state."""
        raise NotImplementedError

    def _evaluate_arguments(self, part: str, depths: jax.Array, first: int = 0) -> tuple[Any, ...]:
        """What a program that evaluates takes beside the variables."""
        raise NotImplementedError

    def _choose(
        self, pretrain: tuple[Recipe, Mask] | None
    ) -> tuple[str, Callable[..., tuple[TrainState, Sums]], tuple[Any, ...]]:
        """Kind, function and further arguments of the step to train with."""
        if pretrain is None:
            return "train", self._train, ()
        recipe, mask = pretrain
        if self._pretrain is None:
            self._pretrain = self._make_train(recipe)
        return "pretrain", self._pretrain, (mask,)
