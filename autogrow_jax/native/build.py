"""Builds the library of convolutions with the system's compiler, once for a machine.

The library holds instructions of the processor it was built on and is compiled against jaxlib's
headers, so it is kept under a name made of both, the compiler and the sources. Whoever changes one
of them builds another library and leaves the old one alone.
"""

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax

from autogrow_jax.process import machine_key

_FOLDER = Path(__file__).parent
_SOURCES = ("conv.cc", "layers.cc", "stacks.cc")
_COMPILERS = ("c++", "g++", "clang++")
_FLAGS = ("-O3", "-std=c++17", "-fPIC", "-pthread", "-Wall", "-Wextra")
_NATIVE = "-march=native"
_SECONDS = 300
# What a compiler, the disk and variables that cannot be read as a shell would (ValueError) raise.
_FAILURES = (OSError, ValueError, subprocess.SubprocessError)

Command = list[str]


class Library(NamedTuple):
    """The library, or why there is none.

    Attributes:
      handle: of the loaded library; None where it could not be built.
      reason: why not, one line; "" where it was.
    """

    handle: ctypes.CDLL | None
    reason: str


@cache
def load() -> Library:
    """The library, built at the first call of the first process that needs it.

    It lies in the folder `autogrow_jax` of the user's cache folder ($XDG_CACHE_HOME, else
    ~/.cache); where that cannot be written, it is built for this process alone. Processes that
    build at the same time do not disturb each other. Never raises: where there is no compiler ($CXX
    is asked first), or it fails, the reason is returned.
    """
    what = "the C++ compiler"
    try:
        compiler = _find_compiler()
        if compiler is None:
            return Library(None, f"no C++ compiler found (tried {', '.join(_COMPILERS)})")
        what = shlex.join(compiler)
        return Library(_load(compiler), "")
    except _FAILURES as error:
        return Library(None, f"{what} could not build them: {_say(error)}")


def _load(compiler: Command) -> ctypes.CDLL:
    name, folder = _name(compiler), _cache_folder()
    if folder is not None and (folder / name).exists():
        with suppress(OSError):  # Damaged: built again.
            return ctypes.CDLL(str(folder / name))
    if folder is not None and os.access(folder, os.W_OK):
        return ctypes.CDLL(str(_build(compiler, folder / name)))
    with tempfile.TemporaryDirectory() as temporary:
        # Once loaded, the library no longer needs its file.
        return ctypes.CDLL(str(_build(compiler, Path(temporary) / name)))


def has_to_build() -> bool:
    """Whether the first `load` will take a compiler's time."""
    try:
        compiler, folder = _find_compiler(), _cache_folder()
        if compiler is None:
            return False
        return folder is None or not (folder / _name(compiler)).exists()
    except _FAILURES:
        return False  # `load` will say what is wrong.


@cache
def library_name() -> str:
    """The library's, which differs with its sources and its compiler; "" without a compiler."""
    try:
        compiler = _find_compiler()
        return _name(compiler) if compiler else ""
    except _FAILURES:
        return ""


def _find_compiler() -> Command | None:
    """The first of $CXX, which may have arguments, and `_COMPILERS` that there is."""
    wanted = [shlex.split(os.environ.get("CXX", "")), *([name] for name in _COMPILERS)]
    return next((words for words in wanted if words and shutil.which(words[0])), None)


def _name(compiler: Command) -> str:
    """Changes with the sources, the flags and the compiler; the folder's name has the rest."""
    version = _run([*compiler, "--version"])
    texts = [path.read_text() for path in sorted([*_FOLDER.glob("*.h"), *_FOLDER.glob("*.cc")])]
    content = "\0".join([version, *_FLAGS, *_own_flags(), *texts])
    return f"convolution-{hashlib.sha256(content.encode()).hexdigest()[:16]}.so"


def _own_flags() -> list[str]:
    """What the user has to say to every C++ compiler; `-march=` chooses other instructions."""
    return shlex.split(os.environ.get("CXXFLAGS", ""))


def _native_flags(compiler: Command) -> list[str]:
    """What builds for this very processor; not every compiler knows it on every processor."""
    try:
        _run([*compiler, _NATIVE, "-x", "c++", "-fsyntax-only", os.devnull])
    except subprocess.CalledProcessError:
        return []
    return [_NATIVE]


def _cache_folder() -> Path | None:
    """This machine's folder in the user's cache, or None where there can be none."""
    try:
        root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(root) / "autogrow_jax" / machine_key()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: a user without a home.
        return None
    return folder


def _build(compiler: Command, path: Path) -> Path:
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        unfinished = Path(folder) / path.name
        _compile([*compiler, *_FLAGS, *_native_flags(compiler), *_own_flags()], unfinished)
        # Whole or not at all; of processes that build at the same time, the last one's stays.
        os.replace(unfinished, path)
    return path


def _compile(command: list[str], library: Path) -> None:
    """Compiles all sources at the same time and links them."""
    # As the system's, of whose warnings nothing is heard.
    include = ["-isystem", jax.ffi.include_dir()]
    objects = [str(library.with_name(f"{source}.o")) for source in _SOURCES]

    def compile_one(source: str, to: str) -> None:
        _run([*command, *include, "-c", str(_FOLDER / source), "-o", to])

    with ThreadPoolExecutor(len(_SOURCES)) as threads:
        list(threads.map(compile_one, _SOURCES, objects))
    _run([*command, "-shared", *objects, "-o", str(library)])


def _run(command: list[str]) -> str:
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=_SECONDS, errors="replace"
    )
    return done.stdout


def _say(error: Exception) -> str:
    printed = error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)
    lines = [line.strip() for line in str(printed or error).splitlines() if line.strip()]
    return next((line for line in lines if "error" in line), lines[-1] if lines else repr(error))
