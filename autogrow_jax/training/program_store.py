"""Compiled programs found again by what was traced, before they are lowered.

JAX's own cache asks for a program by its lowered form, and lowering takes as long as tracing and
reading together. Here the key is made of the traced form: its operations, the constants in it, the
shapes it takes, and whatever decides how these are compiled, the processor included. Only programs
of one CPU device are kept. Reading one runs code that lies in the cache, as JAX's does; a program
is kept by both.
"""

import contextlib
import hashlib
import os
import pickle
import re
import threading
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import serialize_executable

import autogrow_jax
from autogrow_jax import native
from autogrow_jax.process import machine_key
from autogrow_jax.reporting.files import replace_file

# Not that of JAX's programs, of which it expects another file each.
SUFFIX = ".program"
# Told to `jax.monitoring` of each program that was found.
READ_EVENT = "/autogrow_jax/program_read"
_REQUEST_EVENT = "/jax/compilation_cache/compile_requests_use_cache"
_HIT_EVENT = "/jax/compilation_cache/cache_hits"
# Where programs lie, not what they are.
_NO_PART_OF_IT = re.compile("jax_(compilation|persistent)_cache|jax_log_|jax_include_full_trace")
# Of objects in what is printed, such as functions that were traced already.
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def find_folder() -> Path | None:
    """Where programs are kept: JAX's folder; None where they cannot be."""
    folder = jax.config.values["jax_compilation_cache_dir"]
    is_on = folder and jax.config.values["jax_enable_compilation_cache"]
    return Path(folder) if is_on and _is_one_cpu() else None


def _is_one_cpu() -> bool:
    return jax.default_backend() == "cpu" and jax.device_count() == 1


def compile_or_read(traced: Any, donate: tuple[int, ...], options: dict[str, str] | None) -> Any:
    """Compiles what was traced, or reads what an earlier process compiled of the same.

    Args:
      traced: a `jax.stages.Traced`.
      donate: positions of arguments whose buffers may be reused, as `traced` has them.
      options: of the compiler.
    """
    file = _find_file(traced, donate, options)
    found = _read(file) if file is not None else None
    if found is not None:
        return found
    seen = _Compilation()
    compiled = traced.lower().compile(compiler_options=options)
    # Whatever cannot be kept is compiled again next time; what it raises is XLA's or pickle's to
    # choose.
    if file is not None and seen.is_new():
        with contextlib.suppress(Exception):
            content = pickle.dumps(serialize_executable.serialize(compiled))
            replace_file(file, hashlib.sha256(content).digest() + content)
    return compiled


class _Events(threading.local):
    """What JAX's cache told this thread."""

    requests = 0
    hits = 0


_events = _Events()


def _note(event: str, **_: Any) -> None:
    if event == _REQUEST_EVENT:
        _events.requests += 1
    elif event == _HIT_EVENT:
        _events.hits += 1


jax.monitoring.register_event_listener(_note)


class _Compilation:
    """What of JAX's cache a compilation that begins now and in this thread takes."""

    def __init__(self) -> None:
        self._requests, self._hits = _events.requests, _events.hits

    def is_new(self) -> bool:
        """Whether XLA compiled it, and JAX would keep it.

        A program that JAX read from its cache lacks its machine code once it is written again,
        which is noticed when it is run. What JAX does not ask its cache for calls Python, or was
        compiled by this process before.
        """
        return _events.requests > self._requests and _events.hits == self._hits


def _find_file(traced: Any, donate: tuple[int, ...], options: dict[str, str] | None) -> Path | None:
    """Where the program is kept, or None where it cannot be."""
    folder = find_folder()
    if folder is None:
        return None
    try:
        return folder / f"{make_key(traced, donate, options)}{SUFFIX}"
    # A constant that cannot be read costs a compilation and no more.
    except Exception:
        return None


def _read(file: Path) -> Any:
    """A program, or None where there is none that is whole."""
    start = time.perf_counter()
    try:
        content = file.read_bytes()
        digest, content = content[:32], content[32:]
        if hashlib.sha256(content).digest() != digest:
            return None
        with contextlib.suppress(OSError):  # It may be another user's.
            os.utime(file)  # Those used least recently are deleted first.
        payload, arguments, results = pickle.loads(content)
        found = serialize_executable.deserialize_and_load(
            payload, arguments, results, execution_devices=jax.devices()[:1]
        )
    # A file of another version may raise anything.
    except Exception:
        return None
    jax.monitoring.record_event_duration_secs(READ_EVENT, time.perf_counter() - start)
    return found


def make_key(traced: Any, donate: tuple[int, ...], options: dict[str, str] | None) -> str:
    """A name for the program that `traced` becomes, the same in every process."""
    jaxpr = traced.jaxpr
    settings = {k: v for k, v in jax.config.values.items() if not _NO_PART_OF_IT.match(k)}
    text = "\n".join(
        map(
            str,
            (
                _ADDRESS.sub("", str(jaxpr)),
                jax.tree.map(lambda info: (info.shape, info.dtype.name), traced.args_info),
                jax.tree.structure(traced.out_info),
                donate,
                sorted((options or {}).items()),
                sorted((name, str(value)) for name, value in settings.items()),
                os.environ.get("XLA_FLAGS", ""),
                (autogrow_jax.__version__, *map(metadata.version, ("jax", "jaxlib"))),
                machine_key(),
                native.library_name(),
            ),
        )
    )
    digest = hashlib.sha256(text.encode())
    for value in _values_in(jaxpr):
        is_key = jax.dtypes.issubdtype(getattr(value, "dtype", None), jax.dtypes.prng_key)
        array = np.asarray(jax.random.key_data(value) if is_key else value)
        digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()[:32]


def _values_in(jaxpr: Any) -> Iterator[Any]:
    """All constants of a jaxpr and of those in it, which its text leaves out or shortens."""
    yield from getattr(jaxpr, "consts", ())
    for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        for var in eqn.invars:
            if hasattr(var, "val"):
                yield var.val
        for param in eqn.params.values():
            for item in param if isinstance(param, tuple | list) else (param,):
                if hasattr(getattr(item, "jaxpr", item), "eqns"):
                    yield from _values_in(item)
