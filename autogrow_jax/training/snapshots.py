"""Weights for pictures of a run's path: a file each, which nothing is resumed from.

A snapshot is one .npz file, `snapshots/epoch_000012.npz` after 12 epochs, of plain arrays without
pickled objects: `epoch`, `depths`, and each leaf of the variables under its path, such as
`params/stage0/rest/conv1/kernel`. It holds the network as it was trained and evaluated, before the
growth that may follow, at exact depth, and averaged weights where they are kept: the validation
loss that metrics.jsonl has for the epoch is that of these arrays.
"""

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from autogrow_jax import hosts
from autogrow_jax.errors import UserError
from autogrow_jax.reporting.workdir import read_npz, write_npz
from autogrow_jax.steps import Trainer

_DIGITS = 6  # Of the epoch in the name of a snapshot.


class Snapshot(NamedTuple):
    """The weights of a run at one time."""

    epoch: int  # Number of epochs done.
    depths: tuple[int, ...]
    variables: dict[str, Any]  # {"params": ..., "batch_stats": ...} of arrays at exact depth.


class Snapshots:
    """Keeps the snapshots of one run: before the first epoch, every few epochs, and at the end.

    There are `every` epochs between two; 0 keeps none.
    """

    def __init__(self, directory: str | os.PathLike[str], every: int):
        self._directory = Path(directory)
        self._every = every

    def begin(self, trainer: Trainer, epoch: int, is_new: bool = True) -> None:
        """Deletes what an earlier start left behind its last checkpoint; keeps the start of a run.

        A run that is not new may go on amid its first epoch.

        The epochs after the checkpoint are trained again and leave the same snapshots again, so a
        run that was killed and resumed has those of one that was not.
        """
        for path in snapshot_files(self._directory) if hosts.is_first() else ():
            if int(path.stem[-_DIGITS:]) > epoch:
                path.unlink()
        if epoch == 0 and is_new:
            self.after_epoch(trainer, 0)

    def after_epoch(self, trainer: Trainer, epoch: int) -> None:
        """Keeps the weights after `epoch` epochs, if it is time, before a growth changes them."""
        if self._every and epoch % self._every == 0:
            self._write(trainer, epoch)

    def end(self, trainer: Trainer, epoch: int) -> None:
        """Keeps the weights that a run ends with, after `epoch`, if `after_epoch` did not."""
        if self._every and epoch % self._every:
            self._write(trainer, epoch)

    def _write(self, trainer: Trainer, epoch: int) -> None:
        with trainer.timed("checkpoint"):
            snapshot = Snapshot(epoch, trainer.depths, trainer.exact_variables())
            if hosts.is_first():
                write_snapshot(self._directory, snapshot)


def write_snapshot(directory: str | os.PathLike[str], snapshot: Snapshot) -> Path:
    """Writes a snapshot so that a killed process leaves it whole or not at all; returns the file.

    The directory is made if it is not there. No name in the tree of variables may hold a "/".
    """
    arrays: dict[str, Any] = traverse_util.flatten_dict(snapshot.variables, sep="/")
    told = {"epoch": np.int64(snapshot.epoch), "depths": np.asarray(snapshot.depths, np.int64)}
    path = Path(directory) / f"epoch_{snapshot.epoch:0{_DIGITS}d}.npz"
    write_npz(path, told | arrays)
    return path


def snapshot_files(directory: str | os.PathLike[str]) -> list[Path]:
    """The files of a folder's snapshots, in the order of their epochs; none where it is missing."""
    return sorted(Path(directory).glob(f"epoch_{'[0-9]' * _DIGITS}.npz"))


def read_snapshot(path: str | os.PathLike[str]) -> Snapshot:
    """Reads a file of `snapshot_files`; UserError names one that is missing or damaged."""
    try:
        arrays = read_npz(path)
        epoch, depths = int(arrays["epoch"]), tuple(arrays["depths"].tolist())
        leaves = {name: array for name, array in arrays.items() if "/" in name}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"the snapshot {path} is missing or damaged ({error}); delete it, and the others can"
            " still be used"
        ) from error
    return Snapshot(epoch, depths, traverse_util.unflatten_dict(leaves, sep="/"))
