"""One cell of a study, run in this process."""

import contextlib
import os
import signal
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autogrow_jax.errors import UserError
from autogrow_jax.studies.cells import Cell, Folder, with_depths
from autogrow_jax.training import compilation_cache, run

try:
    import fcntl
except ImportError:  # Windows: there nobody notices that two processes run one cell.
    fcntl = None  # type: ignore[assignment]


def run_cell(cell: Cell, workdir: Path, finder: Cell | None = None) -> None:
    """Runs a cell, from the start or from where it was left; nothing where it is done.

    Why it failed stays in the cell's folder, for the table.

    Args:
      cell: what to run.
      workdir: of the study.
      finder: the cell that finds this one's net, where `cell.found_by` names one.

    Raises:
      UserError: also where another process runs this cell, or the finder is not done.
      Exception: whatever the run raises.
    """
    folder = Folder(workdir, cell)
    folder.root.mkdir(parents=True, exist_ok=True)
    with _locked(folder.lock):
        if folder.is_done:
            return
        folder.error.unlink(missing_ok=True)
        compilation_cache.enable(workdir / "compiled")
        try:
            run(_settings(cell, workdir, finder), folder.run)
        except Exception as error:
            if not isinstance(error, UserError):
                traceback.print_exc()
            reason = str(error) if isinstance(error, UserError) else _describe(error)
            folder.fail(reason)
            raise


def stop_with_parent(file_descriptor: int) -> None:
    """Sends this process SIGTERM once the other end of a pipe is closed: its parent has died.

    Args:
      file_descriptor: the end to read from; nobody ever writes to the other.
    """

    def wait() -> None:
        with contextlib.suppress(OSError):
            os.read(file_descriptor, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True, name="waits for the parent's end").start()


def _settings(cell: Cell, workdir: Path, finder: Cell | None) -> dict[str, Any]:
    if not cell.found_by:
        return cell.settings
    assert finder is not None and finder.name == cell.found_by, "the cell that finds this net"
    found = Folder(workdir, finder).result()
    if found is None:
        raise UserError(
            f"the net to train from scratch is what cell {finder.name} finds, which is not done;"
            " run that one first"
        )
    return with_depths(cell, tuple(found["depths"]))


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """The cell is this process's alone; a process that is killed loses the lock with its life."""
    with path.open("w") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"{path.parent} is being run by another process") from None
            except OSError:
                pass  # A file system without locks.
        yield
