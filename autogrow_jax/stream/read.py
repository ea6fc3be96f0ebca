"""Decodes images ahead of those who train on them, in processes or threads, by Grain."""

import gc
import hashlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator
from typing import Any

import numpy as np
from absl import flags

from autogrow_jax.errors import UserError
from autogrow_jax.process import cores
from autogrow_jax.stream.images import Streamed

# Images that a worker decodes at a time: few, so that many workers share the first batch.
_PIECE = 32
# Pieces that a worker, or all threads together, may be ahead.
_AHEAD = 4


class _Pieces:
    """Rows cut into pieces: what Grain reads, here or in a worker, by number."""

    def __init__(self, images: Streamed, rows: np.ndarray, key: int | None):
        self._images, self._rows, self._key = images, rows, key

    def __len__(self) -> int:
        return -(-len(self._rows) // _PIECE)

    def __getitem__(self, number: int) -> np.ndarray | str:
        """Decodes a piece, uint8 [n, size, size, 3]; returns what is wrong with it otherwise."""
        rows = self._rows[number * _PIECE :][:_PIECE].tolist()
        try:
            return np.stack([self._images.decode(row, self._key) for row in rows])
        except UserError as error:  # As text, as Grain would wrap it in its own.
            return str(error)


def read_batches(
    images: Streamed, rows: np.ndarray, batch_size: int, key: bytes | None = None
) -> Generator[np.ndarray]:
    """Yields images uint8 [batch_size, size, size, 3] in the order of `rows`, decoded ahead.

    The last batch may be smaller. What is read depends on the rows and the key alone, not on how
    many workers read it; those who start amid an epoch give the rows that are left. Memory is
    bounded by some 200 images a worker.

    Args:
      images: of a part of a set.
      rows: which of them, int [M].
      batch_size: images at a time.
      key: of the epoch that trains on them; None to evaluate.

    Raises:
      UserError: an image is gone or damaged, a worker died, Grain is not installed.
    """
    word = None if key is None else int.from_bytes(hashlib.blake2b(key, digest_size=8).digest())
    pieces = _open(images, _Pieces(images, np.asarray(rows, np.int64), word))
    left = len(rows)
    rest = np.empty((0, *images.shape[1:]), np.uint8)
    batch = rest
    try:
        while left:
            batch = np.empty((min(batch_size, left), *images.shape[1:]), np.uint8)
            filled = 0
            while filled < len(batch):
                if not len(rest):
                    rest = _next(pieces)
                count = min(len(rest), len(batch) - filled)
                batch[filled : filled + count] = rest[:count]
                rest, filled = rest[count:], filled + count
            left -= len(batch)
            if left:
                yield batch
    finally:
        pieces.close()
        # Grain's iterators are cycles, and hold shared memory until they are collected.
        del pieces, rest
        gc.collect()
    if len(batch):  # The last one, behind which nobody may ask for more: the workers have ended.
        yield batch


def _open(images: Streamed, pieces: _Pieces) -> Any:
    try:
        import grain
    except ImportError as error:
        raise UserError(
            f"streams of images are read by Grain, which cannot be imported ({error}): pip install"
            " 'autogrow_jax[stream]'"
        ) from error
    if not flags.FLAGS.is_parsed():  # Grain looks at its own, which no notebook parses.
        flags.FLAGS.mark_as_parsed()
    workers = min(images.workers, len(pieces))
    # A worker is a process, which gains nothing from threads of its own.
    threads = 1 if workers else min(cores(), len(pieces))
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(_AHEAD, threads))
    stream = grain.MapDataset.source(pieces).to_iter_dataset(options)
    if workers:
        options = grain.MultiprocessingOptions(workers, _AHEAD)
        stream = stream.mp_prefetch(options, _live_with_the_parent)
    return iter(stream)


def _live_with_the_parent(worker: int, workers: int) -> None:
    """In a worker: leaves signals to the parent, which has to save, and ends when that is gone.

    Schedulers and terminals signal all processes. Of a parent that was killed Grain's workers hear
    nothing, and would stay, each with its memory, for as long as the machine runs.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def _next(pieces: Any) -> np.ndarray:
    try:
        piece = next(pieces)
    except StopIteration:
        raise UserError("the stream of images ended early: a worker stopped") from None
    except RuntimeError as error:
        raise UserError(
            f"a worker that decodes images ended ({error}); the run goes on from its last"
            " checkpoint when it is started again, with fewer data.workers if memory was short"
        ) from error
    if isinstance(piece, str):
        raise UserError(piece)
    return piece
