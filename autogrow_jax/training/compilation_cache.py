"""Compiled programs kept on disk, so that another start does not compile them again.

JAX keys what it keeps by the program, the versions and the flags, but not by the features of the
CPU, and the CPU's programs may hold instructions that another machine lacks. So each kind of
machine has a folder of its own.
"""

import os
from pathlib import Path

import jax

from autogrow_jax.machine import machine_key


def enable(root: str | os.PathLike[str]) -> Path:
    """Keeps all programs compiled from now on by this process, and finds those kept before.

    Args:
      root: the folder that holds the folders of all machines; shared by any number of processes.

    Returns:
      This machine's folder.
    """
    folder = Path(root) / machine_key()
    folder.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # The many small programs of a start take as long together as a large one.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return folder
