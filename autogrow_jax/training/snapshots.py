"""Snapshots: the weights of a run every few epochs, for pictures of the path they took.

A snapshot is one .npz file, `snapshots/epoch_000012.npz` after 12 epochs, of plain arrays without
pickled objects: `epoch`, `depths`, and each leaf of the variables under its path, such as
`params/stage0/rest/conv1/kernel`. It holds the network as it was trained and evaluated, before the
growth that may follow, at exact depth, and averaged weights where they are kept: the validation
loss that metrics.jsonl has for the epoch is that of these arrays.
"""

import io
import os
import re
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from autogrow_jax.errors import UserError
from autogrow_jax.reporting import replace_file
from autogrow_jax.training.trainer import Trainer

_NAME = re.compile(r"epoch_(\d+)\.npz")


class Snapshot(NamedTuple):
    """The weights of a run at one time.

    Attributes:
      epoch: number of epochs done.
      variables: {"params": ..., "batch_stats": ...} of NumPy arrays at exact depth.
    """

    epoch: int
    depths: tuple[int, ...]
    variables: dict[str, Any]


class Snapshots:
    """Keeps the snapshots of one run: before the first epoch, every few epochs, and at the end.

    Args:
      directory: made with the first snapshot.
      every: epochs between two; 0 keeps none.
    """

    def __init__(self, directory: str | os.PathLike[str], every: int):
        self._directory = Path(directory)
        self._every = every

    def begin(self, trainer: Trainer, epoch: int) -> None:
        """Deletes what an earlier start left behind its last checkpoint; keeps the start of a run.

        The epochs after the checkpoint are trained again and leave the same snapshots again, so a
        run that was killed and resumed has those of one that was not.
        """
        for done, path in _files(self._directory):
            if done > epoch:
                path.unlink()
        if epoch == 0:
            self.after_epoch(trainer, 0)

    def after_epoch(self, trainer: Trainer, epoch: int) -> None:
        """Keeps the weights after `epoch` epochs, if it is time, before a growth changes them."""
        if self._every and epoch % self._every == 0:
            self._write(trainer, epoch)

    def end(self, trainer: Trainer, epoch: int) -> None:
        """Keeps the last weights of a run, if `after_epoch` did not."""
        if self._every and epoch % self._every:
            self._write(trainer, epoch)

    def _write(self, trainer: Trainer, epoch: int) -> None:
        with trainer.timed("checkpoint"):
            snapshot = Snapshot(epoch, trainer.depths, trainer.exact_variables())
            write_snapshot(self._directory, snapshot)


def write_snapshot(directory: str | os.PathLike[str], snapshot: Snapshot) -> Path:
    """Writes a snapshot so that a killed process leaves it whole or not at all.

    Args:
      directory: made if it is not there.
      snapshot: its arrays may be of NumPy or JAX; no name in its tree may hold a "/".

    Returns:
      The file.
    """
    arrays: dict[str, Any] = {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(snapshot.variables)
    }
    buffer, depths = io.BytesIO(), np.asarray(snapshot.depths, np.int64)
    np.savez(buffer, epoch=np.int64(snapshot.epoch), depths=depths, **arrays)
    path = Path(directory) / f"epoch_{snapshot.epoch:06d}.npz"
    replace_file(path, buffer.getvalue())
    return path


def snapshot_files(directory: str | os.PathLike[str]) -> list[Path]:
    """The files of a folder's snapshots, in the order of their epochs; none where it is missing."""
    return [path for _, path in _files(Path(directory))]


def read_snapshot(path: str | os.PathLike[str]) -> Snapshot:
    """Reads one snapshot.

    Args:
      path: a file of `snapshot_files`.

    Raises:
      UserError: where it is missing, damaged, or no snapshot; names the file.
    """
    try:
        # np.load leaves a file open that it opened itself and could not read.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            epoch, depths = int(arrays["epoch"]), tuple(arrays["depths"].tolist())
            variables: dict[str, Any] = {}
            for name in arrays.files:
                *parents, leaf = name.split("/")
                if not parents:
                    continue
                holder = variables
                for parent in parents:
                    holder = holder.setdefault(parent, {})
                holder[leaf] = arrays[name]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"the snapshot {path} is missing or damaged ({error}); delete it, and the others can"
            " still be used"
        ) from error
    return Snapshot(epoch, depths, variables)


def _files(directory: Path) -> list[tuple[int, Path]]:
    """(epochs done, file) of each snapshot, in this order."""
    if not directory.is_dir():
        return []
    matches = ((_NAME.fullmatch(path.name), path) for path in directory.iterdir())
    return sorted((int(match[1]), path) for match, path in matches if match)
