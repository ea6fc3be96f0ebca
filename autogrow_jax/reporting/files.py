"""JSON text and whole-file writes that a killed process cannot leave half done."""

import json
import math
import numbers
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["replace_file", "to_json", "to_jsonable"]


def to_jsonable(value: Any, name: str = "value") -> Any:
    """Turns scalars and arrays of numpy and JAX, tuples and mappings into what JSON can hold.

    NaN and the infinities become None (JSON has no word for them, and the epoch at which a run
    diverged is the one whose line must not be lost). Other numbers keep their exact value.

    Args:
      value: None, bool, number, string, array, list, tuple, or mapping with string
        keys, nested at will.
      name: what to call the value in an error.

    Returns:
      The same made of None, bool, int, float, str, list and dict only.

    Raises:
      TypeError: for anything else; the message names the entry.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        number = float(value)
        return number if math.isfinite(number) else None
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{name} has the key {key!r}; JSON needs strings as keys.")
        return {key: to_jsonable(item, f"{name}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_jsonable(item, f"{name}[{i}]") for i, item in enumerate(value)]
    if hasattr(value, "tolist") and hasattr(value, "ndim"):  # Arrays, 0-d ones and numpy's bool.
        return to_jsonable(value.tolist(), name)
    raise TypeError(f"{name} is of type {type(value).__name__}, which JSON cannot hold: {value!r}.")


def to_json(value: Any, name: str = "value", *, indent: int | None = None) -> str:
    """`value` as ASCII JSON; every float is written so that reading it gives the same double."""
    return json.dumps(to_jsonable(value, name), allow_nan=False, indent=indent)


def replace_file(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes `content` to `path` so that at any moment the old or the new file is there, whole.

    The directory of `path` is made if it is missing. The temporary file lies beside `path`, as a
    rename is atomic only within one file system.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner can read; a result is for everyone.
        os.chmod(temporary, path.stat().st_mode & 0o777 if path.exists() else 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
