"""One thread that compiles while the main thread trains.

XLA's compiler does not survive the end of the interpreter, so a program that is under way then is
waited for, as `concurrent.futures` does with its threads; what has not begun is dropped by `close`.
`interrupt.leave` asks `is_busy` and ends a process without waiting.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

_lock = threading.Lock()
_num_running = 0


def is_busy() -> bool:
    """Whether any thread of this process compiles in the background."""
    return _num_running > 0


class Background:
    """Runs functions one after the other in a thread, which the first of them starts."""

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None

    def submit(self, work: Callable[[], Any]) -> Future[Any]:
        """Runs `work()` once all that was submitted before is done."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="compiles ahead")
        return self._executor.submit(_run, work)

    def close(self) -> None:
        """Drops what has not begun; does not wait for what has."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = None


def _run(work: Callable[[], Any]) -> Any:
    global _num_running
    with _lock:
        _num_running += 1
    try:
        return work()
    finally:
        with _lock:
            _num_running -= 1
