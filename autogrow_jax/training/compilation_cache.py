"""Compiled programs kept on disk, so that another start does not compile them again.

JAX keys what it keeps by the program, the versions and the flags, but not by the features of the
CPU, and the CPU's programs may hold instructions that another machine lacks. So each kind of
machine has a folder of its own.
"""

import hashlib
import os
import platform
from importlib import metadata
from pathlib import Path

import jax


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


def machine_key() -> str:
    """A name for this kind of machine: jaxlib's version and a hash of the processor's features."""
    features = hashlib.sha256(f"{platform.machine()} {_cpu_features()}".encode()).hexdigest()[:12]
    return f"jaxlib-{metadata.version('jaxlib')}-{features}"


def _cpu_features() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = ("model name", "flags", "Features")
    return "\n".join(sorted({line for line in lines if line.split("\t")[0] in names}))
