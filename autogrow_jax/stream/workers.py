"""Processes that decode images, kept from one reading to the next."""

import atexit
import ctypes
import math
import multiprocessing
import pickle
import queue
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from multiprocessing import resource_tracker
from typing import Any

import numpy as np

from autogrow_jax.errors import UserError
from autogrow_jax.stream.images import Streamed

# Schedulers and terminals signal all processes, but it is the run that has to save.
_OF_THE_RUN = signal.SIGTERM, signal.SIGINT


class Workers:
    """Processes that share the pieces of readings; whoever asks waits until one has time.

    They import no JAX, get the names of the files once, and write pixels into memory that they
    share with this process; it has no name, so that nothing of it can be left behind. They end with
    this process, however that ends, as it alone holds the other end of their pipes.

    Args:
      shape: of the largest piece: images, height, width, channels.
      is_kept: whether they outlive a reading.
    """

    def __init__(self, shape: tuple[int, ...], is_kept: bool):
        self._shape, self._is_kept = shape, is_kept
        self._all: list[_Worker] = []
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._sets: list[tuple[Streamed, bytes]] = []
        resource_tracker.ensure_running()  # Python's own; its start would let signals through.

    def prepare(self, images: Streamed, count: int) -> None:
        """Starts processes until there are `count`; they will be asked for pieces of `images`."""
        if not any(images is known for known, _ in self._sets):
            self._sets.append((images, pickle.dumps(images)))
        if not self._all:  # Before Python, as it ends, waits for processes that never would.
            atexit.register(self.close)
        while len(self._all) < count:
            self._all.append(_Worker(self._shape))
            self._idle.put(self._all[-1])

    def decode(
        self, images: Streamed, rows: Sequence[int], key: int | None, into: np.ndarray
    ) -> None:
        """Decodes images into uint8 [N, size, size, 3], in any thread.

        Raises:
          UserError: an image is gone or damaged, or the process ended.
        """
        number = next(n for n, (known, _) in enumerate(self._sets) if known is images)
        worker = self._idle.get()
        try:
            worker.decode([pickled for _, pickled in self._sets], number, rows, key, into)
        finally:
            self._idle.put(worker)  # One that ended too: nobody is to wait for it.

    def end_reading(self) -> None:
        """Ends them unless they are kept."""
        if not self._is_kept:
            self.close()

    def close(self) -> None:
        """Ends all processes at once, amid a piece too: they hold nothing that could be lost."""
        for worker in self._all:
            worker.process.kill()
        for worker in self._all:
            worker.wait()
        if self._all:  # Nothing is left to do as Python ends, whose modules may be gone.
            self._all.clear()
            atexit.unregister(self.close)


class _Worker:
    """A process, the pipe to it and the pixels that it shares with this one."""

    def __init__(self, shape: tuple[int, ...]):
        context = multiprocessing.get_context("spawn")
        shared: Any = context.RawArray(ctypes.c_uint8, math.prod(shape))
        self._pixels = np.frombuffer(shared, np.uint8).reshape(shape)
        self._pipe, theirs = context.Pipe()
        self._told = 0  # Sets that it knows.
        self._waiting = threading.Lock()
        self.process = context.Process(target=_serve, args=(theirs, shared, shape), daemon=True)
        # What is blocked here stays so in a process from its first moment on.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _OF_THE_RUN)
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()

    def decode(
        self,
        sets: Sequence[bytes],
        number: int,
        rows: Sequence[int],
        key: int | None,
        into: np.ndarray,
    ) -> None:
        try:
            for pickled in sets[self._told : number + 1]:
                self._pipe.send_bytes(pickled)
                self._told += 1
            self._pipe.send((number, rows, key))
            wrong = self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            exit_code = self.wait()
            raise UserError(
                f"a worker that decodes images ended (exit code {exit_code}); the run goes on from"
                " its last checkpoint when it is started again, with fewer data.workers if memory"
                " was short"
            ) from error
        if wrong:
            raise UserError(wrong)
        np.copyto(into, self._pixels[: len(rows)])

    def wait(self) -> int | None:
        """Waits until it has ended and gives its exit code."""
        # Of two threads that wait at once Python tells one that there is no such process, so that
        # it goes on before the other has noted the end.
        with self._waiting:
            self.process.join()
            return self.process.exitcode


def _serve(pipe: Any, shared: Any, shape: tuple[int, ...]) -> None:
    """In a process: decodes what is asked for, until nobody is left to ask."""
    pixels = np.frombuffer(shared, np.uint8).reshape(shape)
    sets: list[Streamed] = []
    with suppress(EOFError, ConnectionError):
        while True:
            asked = pipe.recv()
            if isinstance(asked, Streamed):
                sets.append(asked)
                continue
            number, rows, key = asked
            wrong = ""
            try:
                for place, row in enumerate(rows):
                    pixels[place] = sets[number].decode(row, key)
            except UserError as error:
                wrong = str(error)
            pipe.send(wrong)


_kept: ContextVar[dict[tuple[int, ...], Workers] | None] = ContextVar("_kept", default=None)


@contextmanager
def keep_workers() -> Iterator[None]:
    """Has all readings within the block share their processes, which end with the block."""
    if _kept.get() is not None:
        yield
        return
    found: dict[tuple[int, ...], Workers] = {}
    before = _kept.set(found)
    try:
        yield
    finally:
        _kept.reset(before)
        for workers in found.values():
            workers.close()


def find_workers(shape: tuple[int, ...]) -> Workers:
    """Gives the workers that are kept here, or else new ones; see `Workers`."""
    kept = _kept.get()
    if kept is None:
        return Workers(shape, is_kept=False)
    if shape not in kept:
        kept[shape] = Workers(shape, is_kept=True)
    return kept[shape]
