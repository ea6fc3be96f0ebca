"""Compiled programs kept on disk, so that another start does not compile them again.

JAX keys what it keeps by the program, the versions and the flags, but not by the features of the
CPU, and the CPU's programs may hold instructions that another machine lacks. So each kind of
machine has a folder of its own. What JAX finds damaged it warns of, and compiles. Programs read
from the folder are run as they are: whoever can write there can run code as the user.
"""

import contextlib
import os
import tempfile
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from autogrow_jax.process import machine_key
from autogrow_jax.training.program_store import SUFFIX

DEFAULT_ROOT = "~/.cache/autogrow_jax/compiled"
# A run leaves a few MB on a CPU. JAX's own limit needs another package, and warns at every
# program where that is not installed.
MAX_BYTES = 2 * 2**30
_PATTERNS = ("*-cache", f"*{SUFFIX}", f".*{SUFFIX}.*.tmp")


def choose(root: str) -> Path | None:
    """Keeps programs where a run's config says.

    Args:
      root: the folder that holds the folders of all machines; "" for `DEFAULT_ROOT`, unless JAX was
        told of a folder already (JAX_COMPILATION_CACHE_DIR, or an earlier run), which then stays;
        "none" to leave JAX as it is, with the folder it was told of, if any.

    Returns:
      This machine's folder, None where nothing was changed.

    Raises:
      OSError: the folder cannot be written; nothing was changed.
    """
    if root == "none" or (not root and _folder_now()):
        return None
    return enable(Path(root or DEFAULT_ROOT).expanduser())


def enable(root: str | os.PathLike[str]) -> Path:
    """Keeps all programs compiled from now on by this process, and finds those kept before.

    Of more than `MAX_BYTES` the ones used least recently are deleted first.

    Args:
      root: the folder that holds the folders of all machines; shared by any number of processes.

    Returns:
      This machine's folder.

    Raises:
      OSError: the folder cannot be written; nothing was changed.
    """
    folder = Path(root) / machine_key()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass
    _delete_oldest(Path(root), MAX_BYTES)
    if _folder_now() != str(folder):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        # It opens a folder once, at the first program.
        compilation_cache.reset_cache()
    # The many small programs of a start take as long together as a large one.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return folder


def _folder_now() -> str | None:
    return jax.config.values["jax_compilation_cache_dir"]


def _delete_oldest(root: Path, max_bytes: int) -> None:
    """Deletes files of all machines, of old versions too, until no more than `max_bytes` stay."""
    found = []
    # What JAX keeps, what we do, and what a process that was killed was writing.
    paths = (path for pattern in _PATTERNS for path in root.glob(f"*/{pattern}"))
    for path in paths:
        with contextlib.suppress(OSError):  # Another process deletes too.
            stat = path.stat()
            # A file system that notes no reading leaves the time of writing.
            found.append((max(stat.st_atime, stat.st_mtime), stat.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= max_bytes:
            return
        with contextlib.suppress(OSError):
            path.unlink()
        total -= size
