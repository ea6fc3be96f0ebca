"""CIFAR10 and CIFAR100 from their official files: binary or Python version, archive or unpacked.

The Python version is a pickle, and `pickle.load` runs whatever code a file names. A downloaded
file is not trusted that far: `load_arrays` builds containers, numbers and numpy arrays, and refuses
every name but the four that those take. What stands for these looks at what it is given, as numpy
believes a damaged description.
"""

import io
import pickle
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, NamedTuple

import numpy as np

from autogrow_jax.errors import UserError
from autogrow_jax.files.types import DAMAGED, Source, Split, another_set, make_split, reason

_PIXELS = 3 * 32 * 32
# Browsers unpack what is gzipped, and leave ".tar" of the name, or all of it.
_ARCHIVES = (".tar.gz", ".tar", ".tgz")


class _Layout(NamedTuple):
    """Where one of the two sets keeps what."""

    name: str  # Of the set.
    archive: str  # The official archives' name, less "-binary.tar.gz" or "-python.tar.gz".
    train: tuple[str, ...]  # Names less ".bin"; any of the files may be absent, but not all.
    test: str
    label_bytes: int  # At the start of a binary record; the last one counts.
    label_key: bytes  # In the Python version.


_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
CIFAR10 = _Layout("cifar10", "cifar-10", _BATCHES, "test_batch", 1, b"labels")
# In a record the coarse label, then the fine one.
CIFAR100 = _Layout("cifar100", "cifar-100", ("train",), "test", 2, b"fine_labels")


def read_cifar_folder(folder: Path, class_names: tuple[str, ...], layout: _Layout) -> Source | None:
    """Reads unpacked files or an archive from one folder; nothing is ever unpacked to disk.

    Fewer train files than the official five, or smaller ones, are accepted: a part of CIFAR10 in
    the official format is a set like any other; a note names those that are missing. None where
    there is neither file nor archive.

    Raises:
      UserError: the train or the test file is missing, a file is damaged or the other set's.
    """
    for suffix in (".bin", ""):
        paths = {name: folder / f"{name}{suffix}" for name in (*layout.train, layout.test)}
        files = {name: path.read_bytes() for name, path in paths.items() if path.is_file()}
        if files:
            return _source(folder, suffix, files, class_names, layout)
    for version, suffix in (("binary", ".bin"), ("python", "")):
        for packed in _ARCHIVES:
            path = folder / f"{layout.archive}-{version}{packed}"
            if path.is_file():
                return _source(path, suffix, _members(path, suffix), class_names, layout)
    return None


def _other(layout: _Layout) -> _Layout:
    return CIFAR100 if layout is CIFAR10 else CIFAR10


def _source(
    where: Path,
    suffix: str,
    files: Mapping[str, bytes],
    class_names: tuple[str, ...],
    layout: _Layout,
) -> Source:
    other = _other(layout)
    if other.test in files and layout.test not in files:
        raise another_set(where, other.name, layout.name)
    files = {name: files[name] for name in (*layout.train, layout.test) if name in files}
    train_names = [name for name in layout.train if name in files]
    if not train_names or layout.test not in files:
        lacking = layout.test if train_names else layout.train[0]
        raise UserError(
            f"{where} holds {', '.join(f'{name}{suffix}' for name in files) or 'no batch file'} "
            f"but lacks {lacking}{suffix}; both train and test files are needed"
        )
    decode = _decode_binary if suffix else _decode_python
    parts = {
        name: decode(data, f"{where}/{name}{suffix}", len(class_names), layout)
        for name, data in files.items()
    }
    batches = zip(*(parts[name] for name in train_names), strict=True)
    train = Split(*(np.concatenate(arrays) for arrays in batches))
    missing = [f"{name}{suffix}" for name in layout.train if name not in files]
    lacking = f"{where} lacks {', '.join(missing)}: trained on the other official files"
    return Source(
        train, None, parts[layout.test], class_names, str(where), (lacking,) if missing else ()
    )


def _members(path: Path, suffix: str) -> dict[str, bytes]:
    """Contents of the files of either set in an archive, by name less suffix."""
    both = (*CIFAR10.train, CIFAR10.test, *CIFAR100.train, CIFAR100.test)
    names = {f"{name}{suffix}": name for name in both}
    files = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = names.get(PurePosixPath(member.name).name)
                # A hole that a damaged header tells of would be filled up in memory.
                if name and not member.issparse() and (stream := archive.extractfile(member)):
                    files[name] = stream.read()
    except Exception as error:  # tarfile raises whatever a damaged header leads it to.
        raise UserError(f"{path}: cannot be unpacked ({reason(error)}); {DAMAGED}") from error
    return files


def _decode_binary(data: bytes, where: str, num_classes: int, layout: _Layout) -> Split:
    record = layout.label_bytes + _PIXELS
    other = _other(layout)
    if data and len(data) % record and not len(data) % (other.label_bytes + _PIXELS):
        raise another_set(where, other.name, layout.name)
    if not data or len(data) % record:
        raise UserError(
            f"{where}: {len(data)} bytes, expected a multiple of {record} "
            f"({layout.label_bytes} label byte(s) and {_PIXELS} pixels an image); "
            f"{DAMAGED}"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, record)
    labels = records[:, layout.label_bytes - 1]
    return make_split(_to_images(records[:, layout.label_bytes :]), labels, num_classes, where)


def _decode_python(data: bytes, where: str, num_classes: int, layout: _Layout) -> Split:
    try:
        batch = load_arrays(data)
    except pickle.UnpicklingError as error:
        raise UserError(f"{where}: not a CIFAR batch of the Python version ({error})") from error
    other = _other(layout)
    if not isinstance(batch, dict):
        batch = {}
    if layout.label_key not in batch and other.label_key in batch:
        raise another_set(where, other.name, layout.name)
    if b"data" not in batch or layout.label_key not in batch:
        keys = sorted(str(key) for key in batch if isinstance(key, str | bytes))
        raise UserError(
            f"{where}: expected a dictionary with b'data' and {layout.label_key!r}, found "
            f"{', '.join(keys)[:200] or 'neither'}"
        )
    pixels = batch[b"data"]
    shape: tuple[int, ...] = getattr(pixels, "shape", ())
    if len(shape) != 2 or shape[1] != _PIXELS or pixels.dtype != np.uint8:
        found = f"{getattr(pixels, 'dtype', type(pixels).__name__)} {list(shape)}"
        raise UserError(f"{where}: b'data' is {found}, expected uint8 [N, {_PIXELS}]")
    labels = batch[layout.label_key]
    if not isinstance(labels, list) or not all(isinstance(label, int) for label in labels):
        raise UserError(f"{where}: {layout.label_key!r} is no list of integers")
    return make_split(_to_images(pixels), np.asarray(labels), num_classes, where)


def _to_images(pixels: np.ndarray) -> np.ndarray:
    """[N, 3072] in planes of red, green and blue -> [N, 32, 32, 3]."""
    return np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


_BYTEARRAY8 = pickle.BYTEARRAY8[0]


def _encode(text: str, encoding: str) -> bytes:
    """Python 3 asks for it where it writes bytes in Python 2's protocol."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the encoding {encoding!r}, which is refused")
    return text.encode("latin1")


class _Type:
    """Stands for numpy.dtype, of plain numbers only."""

    def __init__(self, name: str | bytes, *how: object):
        self.dtype = np.dtype(name.decode() if isinstance(name, bytes) else name)
        if self.dtype.kind not in "biuf":
            raise pickle.UnpicklingError(f"it asks for the type {self.dtype}, which is refused")

    def __setstate__(self, state: tuple) -> None:
        if state[1] in (">", b">"):
            self.dtype = self.dtype.newbyteorder(">")


class _Array(np.ndarray):
    """Stands for what numpy makes first, and fills with what the pickle tells."""

    def __setstate__(self, state: tuple) -> None:
        version, shape, kind, is_fortran, content = state
        super().__setstate__((version, shape, kind.dtype, is_fortran, content))


_ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): lambda *how: _Array(0, np.uint8),
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle._Unpickler):
    # Python's own, as the faster one makes a table as long as any number in a damaged file says. So
    # would this one of a kind of bytes that came with Python 3.8, long after the official files.
    dispatch: ClassVar = {
        code: load for code, load in pickle._Unpickler.dispatch.items() if code != _BYTEARRAY8
    }

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        name = module_name.replace("numpy._core", "numpy.core"), global_name  # Since numpy 2.
        if name not in _ADMITTED:
            asked = f"{module_name}.{global_name}"
            raise pickle.UnpicklingError(f"it asks for {asked}, which is refused")
        return _ADMITTED[name]


def load_arrays(data: bytes) -> Any:
    """Unpickles containers, numbers, strings (bytes, where Python 2 wrote them) and numpy arrays.

    Raises:
      pickle.UnpicklingError: damaged data, or data that asks for anything else.
    """
    try:
        return _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # A damaged pickle fails in any way an opcode can.
        raise pickle.UnpicklingError(reason(error)) from error
