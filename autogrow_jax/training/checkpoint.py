"""Weights on disk: checkpoints that a run goes on from, snapshots for pictures of its path.

A checkpoint holds exact-depth arrays, and beside them all else a run has to remember, as JSON.
Orbax saves in the background; what a killed process left half written is never taken for one.
Leaves are saved under their paths rather than as a tree: a zero-length stack (a stage of one block)
is not saved, which Orbax refuses, and on restoring every path and shape is compared, which Orbax
does not do.

A snapshot is one .npz file, `snapshots/epoch_000012.npz` after 12 epochs, of plain arrays without
pickled objects: `epoch`, `depths`, and each leaf of the variables under its path, such as
`params/stage0/rest/conv1/kernel`. It holds the network as it was trained and evaluated, before the
growth that may follow, at exact depth, and averaged weights where they are kept: the validation
loss that metrics.jsonl has for the epoch is that of these arrays.
"""

import io
import json
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util
from orbax.checkpoint import checkpoint_managers

from autogrow_jax.errors import UserError
from autogrow_jax.process import skip_closed_loops
from autogrow_jax.reporting import replace_file, to_json
from autogrow_jax.training.trainer import Trainer

Tree = Any
_DIGITS = 6  # Of the epoch in the name of a snapshot.


class Restored(NamedTuple):
    """A checkpoint that was read."""

    arrays: dict[str, np.ndarray]  # By path, as saved.
    memory: dict[str, Any]  # What `save` was given.


class CheckpointStore:
    """The checkpoints of one run: the newest `keep`, and the one of the best validation accuracy.

    The directory is made if it is not there; UserError where it cannot be. Without `keep` nothing
    is made, saved or deleted: another process may be at work in it.
    """

    def __init__(self, directory: str | Path, keep: int | None = None):
        policies = checkpoint_managers.preservation_policy
        accuracy = itemgetter("validation_accuracy")
        best = policies.BestN(get_metric_fn=accuracy, n=1, keep_checkpoints_without_metrics=False)
        kept = [policies.LatestN(keep or 1), best]
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(kept),
            best_fn=accuracy,  # The policy decides what stays; this, which `best_step` names.
            enable_async_checkpointing=True,
            step_prefix="epoch",
            read_only=keep is None,
        )
        self._directory = Path(directory).absolute()
        try:
            if keep is not None:
                self._directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot keep checkpoints in {self._directory} ({error.strerror})"
            ) from None
        self._manager = ocp.CheckpointManager(self._directory, options=options)

    def save(self, epoch: int, tree: Tree, memory: dict[str, Any], accuracy: float) -> None:
        """Starts saving and returns once the arrays, of exact depth, are copied.

        `epoch` counts those done and names the checkpoint, `memory` is JSON-able, the validation
        `accuracy` of the last epoch in percent decides which is the best.
        OSError where this or an earlier one could not be written; from `wait` and `close` too.
        """
        arrays = ocp.args.StandardSave({n: leaf for n, leaf in _leaves(tree).items() if leaf.size})
        args = ocp.args.Composite(arrays=arrays, memory=ocp.args.JsonSave(memory))
        with self._as_os_error():
            self._manager.save(epoch, args=args, metrics={"validation_accuracy": float(accuracy)})

    def latest(self) -> int | None:
        """Number of epochs done at the newest checkpoint; None where there is none."""
        return self._manager.latest_step()

    def best(self) -> int | None:
        """The checkpoint of the highest validation accuracy."""
        return self._manager.best_step()

    def all_epochs(self) -> list[int]:
        """What is kept, oldest first."""
        return sorted(self._manager.all_steps())

    def read(self, epoch: int) -> Restored:
        """Reads a checkpoint, whatever is in it; a UserError names the folder of a damaged one."""
        args = ocp.args.Composite(arrays=ocp.args.StandardRestore(), memory=ocp.args.JsonRestore())
        try:
            with skip_closed_loops():
                restored = self._manager.restore(epoch, args=args)
        # Orbax, JSON and tensorstore each have their own exceptions.
        except Exception as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"the checkpoint {self._directory / f'epoch_{epoch}'} is damaged"
                f" ({type(error).__name__}: {reason[:200]}); delete that folder, and the run goes"
                " on from the one before it"
            ) from error
        return Restored(jax.tree.map(np.asarray, restored["arrays"]), restored["memory"])

    def wait(self) -> None:
        """Returns once everything is on disk."""
        with self._as_os_error():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits and lets the directory go."""
        with self._as_os_error():
            self._manager.close()

    @contextmanager
    def _as_os_error(self) -> Iterator[None]:
        """Raises what tensorstore says of a full disk and the like as the OSError that it is."""
        try:
            yield
        except Exception as error:
            found = re.search(r"os_error_code='(\d+)'", str(error))
            if found is None:
                raise
            code = int(found[1])
            raise OSError(code, os.strerror(code), str(self._directory)) from error


def evaluated_arrays(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of a saved `TrainState`, what `TrainState.variables` takes: averaged weights if there are."""
    weights = "ema." if any(name.startswith("ema.") for name in arrays) else "params."
    wanted = {n: leaf for n, leaf in arrays.items() if n.startswith((weights, "batch_stats."))}
    return {name.replace(weights, "params.", 1): leaf for name, leaf in wanted.items()}


def rebuild(arrays: dict[str, np.ndarray], like: Tree) -> Tree:
    """Puts saved arrays into the structure of `like`, a pytree of arrays or shapes.

    UserError lists the paths that are only here or only there, or differ in shape or dtype.
    """
    found, complaints, leaves = dict(arrays), [], []
    for name, leaf in _leaves(like).items():
        if 0 in leaf.shape:
            leaves.append(jnp.zeros(leaf.shape, leaf.dtype))
            continue
        array = found.pop(name, None)
        if array is None:
            complaints.append(f"  {name}: not in the checkpoint")
        elif array.shape != leaf.shape or array.dtype != leaf.dtype:
            complaints.append(
                f"  {name}: {array.dtype}{list(array.shape)} in the checkpoint,"
                f" {leaf.dtype}{list(leaf.shape)} in the network"
            )
        else:
            # A copy of JAX's own: the step donates it, and NumPy's memory is not ours to reuse.
            leaves.append(jnp.array(array, copy=True))
    complaints += [f"  {name}: only in the checkpoint" for name in found]
    if complaints:
        raise UserError(
            "the checkpoint does not fit this network; was it another data set, with other classes"
            " or channels?\n" + "\n".join(complaints)
        )
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _leaves(tree: Tree) -> dict[str, Any]:
    return {
        # Orbax takes "/" for a folder; no name of ours has one.
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def write_arrays(path: Path, tree: Tree, memory: dict[str, Any]) -> None:
    """Writes a state as one .npz file, whole or not at all: leaves by path, and `memory` as JSON.

    `read_arrays` gives it back as the `Restored` of a checkpoint.
    """
    buffer, text = io.BytesIO(), to_json(memory, "memory")
    leaves: dict[str, Any] = {name: leaf for name, leaf in _leaves(tree).items() if leaf.size}
    np.savez(buffer, **leaves, memory=np.frombuffer(text.encode(), np.uint8))
    replace_file(path, buffer.getvalue())


def read_arrays(path: Path) -> Restored:
    """Reads a file of `write_arrays`; UserError where it is missing or damaged."""
    try:
        # np.load leaves a file open that it opened itself and could not read.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            leaves = dict(arrays.items())
            memory = json.loads(leaves.pop("memory").tobytes())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}, the weights of a candidate, is missing or damaged ({error}); bring it back,"
            " or start the run in another --workdir"
        ) from error
    return Restored(leaves, memory)


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

    def begin(self, trainer: Trainer, epoch: int) -> None:
        """Deletes what an earlier start left behind its last checkpoint; keeps the start of a run.

        The epochs after the checkpoint are trained again and leave the same snapshots again, so a
        run that was killed and resumed has those of one that was not.
        """
        for path in snapshot_files(self._directory):
            if int(path.stem[-_DIGITS:]) > epoch:
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
    """Writes a snapshot so that a killed process leaves it whole or not at all; returns the file.

    The directory is made if it is not there. No name in the tree of variables may hold a "/".
    """
    arrays: dict[str, Any] = traverse_util.flatten_dict(snapshot.variables, sep="/")
    buffer, depths = io.BytesIO(), np.asarray(snapshot.depths, np.int64)
    np.savez(buffer, epoch=np.int64(snapshot.epoch), depths=depths, **arrays)
    path = Path(directory) / f"epoch_{snapshot.epoch:0{_DIGITS}d}.npz"
    replace_file(path, buffer.getvalue())
    return path


def snapshot_files(directory: str | os.PathLike[str]) -> list[Path]:
    """The files of a folder's snapshots, in the order of their epochs; none where it is missing."""
    return sorted(Path(directory).glob(f"epoch_{'[0-9]' * _DIGITS}.npz"))


def read_snapshot(path: str | os.PathLike[str]) -> Snapshot:
    """Reads a file of `snapshot_files`; UserError names one that is missing or damaged."""
    try:
        # np.load leaves a file open that it opened itself and could not read.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            epoch, depths = int(arrays["epoch"]), tuple(arrays["depths"].tolist())
            leaves = {name: array for name, array in arrays.items() if "/" in name}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"the snapshot {path} is missing or damaged ({error}); delete it, and the others can"
            " still be used"
        ) from error
    return Snapshot(epoch, depths, traverse_util.unflatten_dict(leaves, sep="/"))
