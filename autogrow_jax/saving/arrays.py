"""Arrays as they are saved, each under its path, and a state as one file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from autogrow_jax.errors import UserError
from autogrow_jax.reporting.workdir import read_npz, to_json, write_npz

Tree = Any


class Restored(NamedTuple):
    """A state that was read."""

    arrays: dict[str, np.ndarray]  # By path, as saved.
    memory: dict[str, Any]  # What `save` was given.
    more: Mapping[str, dict[str, np.ndarray]] = {}  # Further arrays, by part and path.


def leaves_by_path(tree: Tree) -> dict[str, Any]:
    """The leaves of a pytree by the names that they are saved under."""
    return {
        # Orbax takes "/" for a folder; no name of ours has one.
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def write_arrays(path: Path, tree: Tree, memory: dict[str, Any]) -> None:
    """Writes a state as one .npz file, whole or not at all: leaves by path, and `memory` as JSON.

    `read_arrays` gives it back as the `Restored` of a checkpoint.
    """
    text = to_json(memory, "memory")
    leaves: dict[str, Any] = {n: leaf for n, leaf in leaves_by_path(tree).items() if leaf.size}
    write_npz(path, leaves | {"memory": np.frombuffer(text.encode(), np.uint8)})


def read_arrays(path: Path) -> Restored:
    """Reads a file of `write_arrays`; UserError where it is missing or damaged."""
    try:
        leaves = read_npz(path)
        memory = json.loads(leaves.pop("memory").tobytes())
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path}, the weights of a candidate, is missing or damaged ({error}); bring it back,"
            " or start the run in another --workdir"
        ) from error
    return Restored(leaves, memory)
