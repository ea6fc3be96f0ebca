"""Decodes images ahead of those who train on them, in processes or threads, by Grain."""

import hashlib
from collections.abc import Callable, Generator, Sequence
from functools import partial
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


class _Pieces:
    """Rows cut into pieces: what Grain reads by number, each of its threads for a worker."""

    def __init__(self, rows: np.ndarray, decode: Callable[[Sequence[int]], np.ndarray]):
        self._rows, self._decode = rows, decode

    def __len__(self) -> int:
        return -(-len(self._rows) // _PIECE)

    def __getitem__(self, number: int) -> np.ndarray | str:
        """Decodes a piece, uint8 [n, size, size, 3]; returns what is wrong with it otherwise."""
        try:
            return self._decode(self._rows[number * _PIECE :][:_PIECE].tolist())
        except UserError as error:  # As text, as Grain would wrap it in its own.
            return str(error)


def read_batches(
    images: Streamed, rows: np.ndarray, batch_size: int, key: bytes | None = None
) -> Generator[np.ndarray]:
    """Yields images uint8 [batch_size, size, size, 3] in the order of `rows`, decoded ahead.

    The last batch may be smaller. What is read depends on the rows and the key alone, not on how
    many workers read it; those who start amid an epoch give the rows that are left. Memory is
    bounded by some 200 images a worker. Workers are started for one reading and end with it, before
    the last batch is given; within `keep_workers` they serve the next.

    Args:
      images: of a part of a set.
      rows: which of them, int [M].
      batch_size: images at a time.
      key: of the epoch that trains on them; None to evaluate.

    Raises:
      UserError: an image is gone or damaged, a worker died, Grain is not installed.
    """
    word = None if key is None else int.from_bytes(hashlib.blake2b(key, digest_size=8).digest())
    left, shape = len(rows), images.shape[1:]
    rest = batch = np.empty((0, *shape), np.uint8)
    workers = find_workers((_PIECE, *shape)) if images.workers else None
    pieces: Any = None
    try:
        pieces = _open(images, np.asarray(rows, np.int64), word, workers)
        while left:
            batch = np.empty((min(batch_size, left), *shape), np.uint8)
            filled = 0
            while filled < len(batch):
                if not len(rest):
                    rest = next(pieces)
                    if isinstance(rest, str):
                        raise UserError(rest)
                count = min(len(rest), len(batch) - filled)
                batch[filled : filled + count] = rest[:count]
                rest, filled = rest[count:], filled + count
            left -= len(batch)
            if left:
                yield batch
    finally:
        if pieces is not None:
            pieces.close()
        if workers is not None:
            workers.end_reading()
    if len(batch):  # The last one, behind which nobody may ask for more: all is closed.
        yield batch


def _open(images: Streamed, rows: np.ndarray, key: int | None, workers: Workers | None) -> Any:
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
    count = -(-len(rows) // _PIECE)
    if workers is not None:
        # Grain's own import JAX and Orbax, start anew for each iterator and end one by one.
        threads = min(images.workers, count)
        workers.prepare(images, threads)
        decode, ahead = partial(workers.decode, images, key=key), _AHEAD * threads
    else:
        threads = min(cores(), count)
        decode, ahead = partial(_decode, images, key=key), max(_AHEAD, threads)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
    return iter(grain.MapDataset.source(_Pieces(rows, decode)).to_iter_dataset(options))


def _decode(images: Streamed, rows: Sequence[int], key: int | None) -> np.ndarray:
    return np.stack([images.decode(row, key) for row in rows])
