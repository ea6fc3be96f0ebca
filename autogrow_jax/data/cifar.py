"""CIFAR10 and CIFAR100 from their official files: binary or Python version, archive or unpacked.

The Python version is a pickle, and `pickle.load` runs whatever code a file names. A downloaded
file is not trusted that far: `load_arrays` builds containers, numbers and numpy arrays, and refuses
every name but the four that those take.
"""

import io
import pickle
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from autogrow_jax.data.types import DAMAGED, Source, Split, make_split
from autogrow_jax.errors import UserError

_PIXELS = 3 * 32 * 32


class _Layout(NamedTuple):
    """Where one of the two sets keeps what."""

    archive: str  # The official archives' name, less "-binary.tar.gz" or "-python.tar.gz".
    train: tuple[str, ...]  # Names less ".bin"; any of the files may be absent, but not all.
    test: str
    label_bytes: int  # At the start of a binary record; the last one counts.
    label_key: bytes  # In the Python version.


_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
CIFAR10 = _Layout("cifar-10", _BATCHES, "test_batch", 1, b"labels")
CIFAR100 = _Layout("cifar-100", ("train",), "test", 2, b"fine_labels")  # Coarse, then fine label.


def read_cifar_folder(folder: Path, class_names: tuple[str, ...], layout: _Layout) -> Source | None:
    """Reads unpacked files or an archive from one folder; nothing is ever unpacked to disk.

    Fewer train files than the official five, or smaller ones, are accepted: a part of CIFAR10 in
    the official format is a set like any other. None where there is neither file nor archive.

    Raises:
      UserError: the train or the test file is missing, or a file is damaged.
    """
    wanted = (*layout.train, layout.test)
    for suffix in (".bin", ""):
        paths = {name: folder / f"{name}{suffix}" for name in wanted}
        files = {name: path.read_bytes() for name, path in paths.items() if path.is_file()}
        if files:
            return _source(folder, suffix, files, class_names, layout)
    for version, suffix in (("binary", ".bin"), ("python", "")):
        path = folder / f"{layout.archive}-{version}.tar.gz"
        if path.is_file():
            return _source(path, suffix, _members(path, wanted, suffix), class_names, layout)
    return None


def _source(
    where: Path,
    suffix: str,
    files: Mapping[str, bytes],
    class_names: tuple[str, ...],
    layout: _Layout,
) -> Source:
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
    return Source(train, None, parts[layout.test], class_names, str(where))


def _members(path: Path, wanted: tuple[str, ...], suffix: str) -> dict[str, bytes]:
    """Contents of the wanted files of an archive, by name less suffix."""
    names = {f"{name}{suffix}": name for name in wanted}
    files = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = names.get(PurePosixPath(member.name).name)
                # A hole that a damaged header tells of would be filled up in memory.
                if name and not member.issparse() and (stream := archive.extractfile(member)):
                    files[name] = stream.read()
    except Exception as error:  # tarfile raises whatever a damaged header leads it to.
        raise UserError(f"{path}: cannot be unpacked ({error}); {DAMAGED}") from error
    return files


def _decode_binary(data: bytes, where: str, num_classes: int, layout: _Layout) -> Split:
    record = layout.label_bytes + _PIXELS
    if not data or len(data) % record:
        raise UserError(
            f"{where}: {len(data)} bytes, expected a multiple of {record} "
            f"({layout.label_bytes} label byte(s) and {_PIXELS} pixels an image); "
            "it is damaged, cut short or of the other CIFAR set"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, record)
    labels = records[:, layout.label_bytes - 1]
    return make_split(_to_images(records[:, layout.label_bytes :]), labels, num_classes, where)


def _decode_python(data: bytes, where: str, num_classes: int, layout: _Layout) -> Split:
    try:
        batch = load_arrays(data)
    except pickle.UnpicklingError as error:
        raise UserError(f"{where}: not a CIFAR batch of the Python version ({error})") from error
    if not isinstance(batch, dict) or b"data" not in batch or layout.label_key not in batch:
        raise UserError(
            f"{where}: expected a dictionary with b'data' and {layout.label_key!r}, found "
            f"{sorted(map(str, batch)) if isinstance(batch, dict) else type(batch).__name__}"
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


def _encode(text: str, encoding: str) -> bytes:
    """Python 3 asks for it where it writes bytes in Python 2's protocol."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the encoding {encoding!r}, which is refused")
    return text.encode("latin1")


_ADMITTED = {
    # The function itself, wherever numpy keeps it.
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
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
        raise pickle.UnpicklingError(str(error)) from error
