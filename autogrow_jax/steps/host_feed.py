"""Brings examples to the programs batch by batch from the host, and chooses between the feeds."""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from autogrow_jax.data import Dataset
from autogrow_jax.errors import UserError
from autogrow_jax.steps.feed import Arguments, Batch, DeviceFeed, Epoch, Feed
from autogrow_jax.steps.programs import Programs
from autogrow_jax.steps.state import AXIS, replicate, spread_batch
from autogrow_jax.steps.step import Recipe, Trained, make_batch_step
from autogrow_jax.stream import Streamed, read_batches

# Sets up to this size are put on the device as a whole.
ON_DEVICE_BYTES = 4 * 2**30

# Of a data set, a recipe, programs and what `data.on_device` says.
MakeFeed = Callable[[Dataset, Recipe, Programs, str], "Feed"]


def make_feed(dataset: Dataset, recipe: Recipe, programs: Programs, on_device: str) -> Feed:
    """Makes a feed from the device where the set fits ("auto"), or as "yes" or "no" say."""
    if isinstance(dataset.train.images, Streamed):
        if on_device == "yes":
            raise UserError("config.data.on_device is 'yes', but the images are streamed; say auto")
        return HostFeed(dataset, recipe, programs)
    size = sum(part.images.nbytes for part in dataset.parts.values())
    if on_device == "yes" or (on_device == "auto" and size <= ON_DEVICE_BYTES):
        return DeviceFeed(dataset, recipe, programs)
    return HostFeed(dataset, recipe, programs)


class HostFeed(Feed):
    """The feed of sets that do not fit: images stay on the host, in a memory map or in a stream."""

    def __init__(self, dataset: Dataset, recipe: Recipe, programs: Programs):
        super().__init__(dataset, recipe, programs)
        self._parts = dataset.parts
        self.most_steps = 1
        # The batches that are under way, of an epoch from a step on.
        self._epoch, self._step = b"", 0
        self._batches: Iterator[Batch] = iter(())
        self._some: Batch | None = None

    def some_images(self, count: int) -> Batch:
        if self._some is None:  # Of a stream they take a while to decode, and each growth asks.
            part, rows = self._parts["train"], self._rows(count)
            read = part.images[rows], part.labels[rows].astype(np.int32)
            self._some = replicate(read, self._mesh)
        return self._some

    def _train_program(self, recipe: Recipe, steps: int) -> Callable[..., Trained]:
        return self._programs.make(make_batch_step, recipe)

    def _train_arguments(self, epoch: Epoch, order: jax.Array, first: int, steps: int) -> Arguments:
        key = np.asarray(jax.random.key_data(epoch.augment_key)).tobytes()
        if (key, first) != (self._epoch, self._step):
            rows = np.asarray(order)[
                first * self._batch_size : self.steps_per_epoch * self._batch_size
            ]
            self._batches = self._read("train", rows, self._batch_size, key)
        self._epoch, self._step = key, first + 1
        batch, rate = next(self._batches), jnp.float32(epoch.learning_rate)
        return *batch, epoch.augment_key, epoch.depths, rate, jnp.int32(first)

    def _batches_at_once(self, recipe: Recipe, is_looked_at: bool) -> int:
        return 1

    def _evaluate_arguments(
        self, part: str, depths: jax.Array, batches: int
    ) -> Iterator[Arguments]:
        count, size = len(self._parts[part].labels), self._evaluated_at_once
        for number, batch in enumerate(self._read(part, np.arange(count), size)):
            yield *batch, jnp.int32(0), jnp.int32(min(size, count - number * size)), depths

    def _examples(self, epoch: Epoch, order: jax.Array) -> tuple[Arguments, Arguments]:
        def black(size: int) -> Batch:
            def read(rows: np.ndarray) -> np.ndarray:
                return np.zeros((len(rows), *self._shape), np.uint8)

            rows = np.zeros(size, np.int32)
            return spread_batch(rows, read, self._mesh), spread_batch(rows, np.array, self._mesh)

        numbers = jnp.float32(0), jnp.int32(0)
        given = *black(self._batch_size), epoch.augment_key, epoch.depths, *numbers
        evaluated = *black(self._evaluated_at_once), jnp.int32(0), jnp.int32(0), epoch.depths
        return given, evaluated

    def _read(
        self, part: str, rows: np.ndarray, size: int, key: bytes | None = None
    ) -> Iterator[Batch]:
        """Yields batches of a part in the order of rows; with the key of an epoch to train on.

        The last one is filled up with black images, which are to count for nothing. Of each batch a
        process reads what its own devices train on.
        """
        images, labels = self._parts[part].images, self._parts[part].labels
        place = NamedSharding(self._mesh, PartitionSpec(AXIS)).addressable_devices_indices_map
        own = np.unique([np.arange(size)[at] for at in place((size,)).values() if at is not None])
        # Of each batch the places in `rows` that are this process's.
        places = np.arange(0, len(rows), size)[:, None] + own
        mine = [rows[at[at < len(rows)]] for at in places]
        if isinstance(images, Streamed):
            read = read_batches(images, np.concatenate(mine), len(own), key)
        else:
            read = (_read_rows(images, chosen) for chosen in mine if len(chosen))
        for chosen in mine:
            if len(chosen) == size:  # Without a copy, which takes as long as a step may.
                pixels, wanted = next(read), labels[chosen].astype(np.int32)
            else:
                pixels = np.zeros((size, *self._shape), np.uint8)
                wanted = np.zeros(size, np.int32)
                if len(chosen):
                    pixels[own[: len(chosen)]] = next(read)
                    wanted[own[: len(chosen)]] = labels[chosen]
            everything = np.arange(size)
            yield (
                spread_batch(everything, pixels.__getitem__, self._mesh),
                spread_batch(everything, wanted.__getitem__, self._mesh),
            )


def _read_rows(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    # Sorted reading is kinder to a memory map; the order within the batch is put back.
    by_place = np.argsort(rows)
    read = np.empty((len(rows), *images.shape[1:]), np.uint8)
    read[by_place] = images[rows[by_place]]
    return read
