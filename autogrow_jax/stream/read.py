"""Decodes images ahead of those who train on them, in processes or threads, by Grain."""

import hashlib
import threading
from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np
from absl import flags

from autogrow_jax.errors import UserError
from autogrow_jax.process import cores
from autogrow_jax.stream.images import Streamed
from autogrow_jax.stream.workers import Workers, find_workers

# Images that a worker decodes at a time: few, so that many workers share the first batch.
_PIECE = 32
# Pieces that each worker, or all threads together, may be ahead.
_AHEAD = 4

# Decodes rows of a set into an array of as many images.
_Decode = Callable[[Sequence[int], np.ndarray], None]


class _Pieces:
    """Batches cut into pieces: what Grain reads by number, each of its threads for a worker.

    The threads fill the batches in place: the one that trains would not keep up with copying.
    """

    def __init__(self, rows: np.ndarray, batch_size: int, shape: tuple[int, ...], decode: _Decode):
        self._rows, self._size, self._shape, self._decode = rows, batch_size, shape, decode
        self.of_each = -(-batch_size // _PIECE)
        self._batches: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        whole, rest = divmod(len(self._rows), self._size)
        return whole * self.of_each + -(-rest // _PIECE)

    def __getitem__(self, number: int) -> str:
        """Decodes a piece; returns what is wrong with it, or nothing."""
        batch, place = number // self.of_each, number % self.of_each * _PIECE
        rows = self._rows[batch * self._size :][: self._size]
        with self._lock:
            if batch not in self._batches:
                self._batches[batch] = np.empty((len(rows), *self._shape), np.uint8)
            into = self._batches[batch][place:][:_PIECE]
        try:
            self._decode(rows[place:][:_PIECE].tolist(), into)
        except UserError as error:  # As text, as Grain would wrap it in its own.
            return str(error)
        return ""

    def take(self, number: int) -> np.ndarray:
        """The batch of a piece, uint8 [n, size, size, 3], once all its pieces are decoded."""
        return self._batches.pop(number // self.of_each)


def read_batches(
    images: Streamed, rows: np.ndarray, batch_size: int, key: bytes | None = None
) -> Generator[np.ndarray]:
    """Yields images uint8 [batch_size, size, size, 3] in the order of `rows`, decoded ahead.

    The last batch may be smaller. What is read depends on the rows and the key alone, not on how
    many workers read it; those who start amid an epoch give the rows that are left. Memory is
    bounded by some 200 images a worker and two batches. Workers are started for one reading and end
    with it, before the last batch is given; within `keep_workers` they serve the next.

    Args:
      images: of a part of a set.
      rows: which of them, int [M].
      batch_size: images at a time.
      key: of the epoch that trains on them; None to evaluate.

    Raises:
      UserError: an image is gone or damaged, a worker died, Grain is not installed.
    """
    word = None if key is None else int.from_bytes(hashlib.blake2b(key, digest_size=8).digest())
    workers = find_workers((_PIECE, *images.shape[1:])) if images.workers else None

    def decode(chosen: Sequence[int], into: np.ndarray) -> None:
        if workers is not None:
            workers.decode(images, chosen, word, into)
            return
        for place, row in enumerate(chosen):
            into[place] = images.decode(row, word)

    pieces = _Pieces(np.asarray(rows, np.int64), batch_size, images.shape[1:], decode)
    done: Any = None
    try:
        done = _open(images, pieces, workers)
        for number in range(len(pieces)):
            if wrong := next(done):
                raise UserError(wrong)
            if (number + 1) % pieces.of_each == 0 and number + 1 < len(pieces):
                yield pieces.take(number)
    finally:
        if done is not None:
            done.close()
        if workers is not None:
            workers.end_reading()
    if len(pieces):  # The last one, behind which nobody may ask for more: all is closed.
        yield pieces.take(len(pieces) - 1)


def _open(images: Streamed, pieces: _Pieces, workers: Workers | None) -> Any:
    """Grain's iterator over the pieces, which it has decoded ahead and gives in their order."""
    try:
        import grain
    except ImportError as error:
        raise UserError(
            f"streams of images are read by Grain, which cannot be imported ({error}): pip install"
            " 'autogrow_jax[stream]'"
        ) from error
    if not flags.FLAGS.is_parsed():  # Grain looks at its own, which no notebook parses.
        flags.FLAGS.mark_as_parsed()
    if workers is not None:
        # Grain's own import JAX and Orbax, start anew for each iterator and end one by one.
        threads = min(images.workers, len(pieces))
        workers.prepare(images, threads)
        ahead = _AHEAD * threads
    else:
        threads = min(cores(), len(pieces))
        ahead = max(_AHEAD, threads)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
    return iter(grain.MapDataset.source(pieces).to_iter_dataset(options))
