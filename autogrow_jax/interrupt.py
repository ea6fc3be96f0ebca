"""Ctrl-C and SIGTERM: both stop a program between two steps and let it say how to go on."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from autogrow_jax.background import is_busy

_pending = threading.Event()


class Terminated(KeyboardInterrupt):
    """SIGTERM: what a cluster sends before it kills. To be treated as Ctrl-C is."""


@contextmanager
def catch_sigterm() -> Iterator[None]:
    """Within it SIGTERM raises `Terminated` in the main thread."""
    _pending.clear()
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
        _pending.clear()


def stop_if_terminated() -> None:
    """Raises `Terminated` where SIGTERM came and its exception was lost.

    Python drops what is raised while an object is deleted, wherever that happens to be.
    """
    if _pending.is_set():
        raise Terminated


def exit_status(stop: KeyboardInterrupt) -> int:
    """130 after Ctrl-C, 143 after SIGTERM, as shells have it."""
    return 143 if isinstance(stop, Terminated) else 130


def leave(status: int) -> None:
    """Ends the process with an exit status."""
    if status > 128 or is_busy():
        # An exception from a signal handler may have gone through XLA's compiler, which then
        # crashes as the interpreter ends, and a compilation in the background would be waited for.
        # All files are closed by now.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _terminate(number: int, frame: Any) -> None:
    _pending.set()
    raise Terminated
