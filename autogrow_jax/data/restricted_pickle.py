"""Unpickling that can build containers, numbers and numpy arrays, and nothing else.

The Python version of CIFAR is a pickle, and `pickle.load` runs whatever code a file names. A
downloaded file is not trusted that far: every name but the four below is refused.
"""

import io
import pickle
from typing import Any

import numpy as np


class _Unpickler(pickle.Unpickler):
    """Admits numpy's array reconstruction, under its module name before and after numpy 2."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        name = module_name.replace("numpy._core", "numpy.core"), global_name
        if name == ("numpy.core.multiarray", "_reconstruct"):
            return np.empty(0).__reduce__()[0]  # the function itself, wherever numpy keeps it
        if name == ("numpy", "ndarray"):
            return np.ndarray
        if name == ("numpy", "dtype"):
            return np.dtype
        if name == (
            "_codecs",
            "encode",
        ):  # how Python 3 writes bytes in Python 2's protocol
            return _encode
        raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}, which is refused")


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the encoding {encoding!r}, which is refused")
    return text.encode("latin1")


def load_arrays(data: bytes) -> Any:
    """Unpickles containers, numbers, strings and numpy arrays.

    Args:
      data: a pickle; strings written by Python 2 come back as bytes.

    Returns:
      What was pickled.

    Raises:
      pickle.UnpicklingError: damaged data, or data that asks for anything else.
    """
    try:
        return _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # A damaged pickle fails in any way an opcode can.
        raise pickle.UnpicklingError(str(error)) from error
