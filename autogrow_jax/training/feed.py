"""Brings examples to the training step: from arrays on the device, or batch by batch from the host.

Both give the same batches in the same order, as both read the same permutation.
"""

from typing import Any, Protocol

import jax

from autogrow_jax.data import Dataset
from autogrow_jax.training.device_feed import DeviceFeed
from autogrow_jax.training.feed_programs import Epoch, Progress
from autogrow_jax.training.host_feed import HostFeed
from autogrow_jax.training.programs import Programs
from autogrow_jax.training.state import TrainState
from autogrow_jax.training.step import Mask, Recipe, Sums

__all__ = ["Epoch", "Feed", "Progress", "make_feed"]

# Sets up to this size are put on the device as a whole.
ON_DEVICE_BYTES = 4 * 2**30


class Feed(Protocol):
    """Trains for epochs and evaluates parts of a data set."""

    steps_per_epoch: int

    def prepare(self, recipe: Recipe) -> None:
        """Makes the functions for a recipe; call it again when the capacity changes."""
        ...

    def compile_ahead(self, recipe: Recipe, state: TrainState, epoch: Epoch) -> None:
        """Compiles in the background what `prepare(recipe)` leads to.

        Args:
          recipe: of the present capacity or of another.
          state: of that capacity, as `describe` makes it.
          epoch: any, as training will be given.
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
