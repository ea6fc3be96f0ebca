"""Checkpoints: exact-depth arrays, and beside them all else a run has to remember, as JSON.

Orbax saves in the background; a checkpoint that a killed process left half written is never taken
for one. Leaves are saved under their paths rather than as a tree: a zero-length stack (a stage of
one block) is not saved, which Orbax refuses, and on restoring every path and shape is compared,
which Orbax does not do.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from autogrow_jax.errors import UserError

Tree = Any


class Restored(NamedTuple):
    """A checkpoint that was read: {path: array} as saved, and the JSON that `save` was given."""

    arrays: dict[str, np.ndarray]
    memory: dict[str, Any]


class CheckpointStore:
    """The checkpoints of one run: the newest few, and the one of the best validation accuracy.

    Args:
      directory: made if it is not there.
      keep: how many of the newest to keep, beside the best.

    Raises:
      UserError: where the directory cannot be made.
    """

    def __init__(self, directory: str | Path, keep: int):
        policies = checkpoint_managers.preservation_policy
        accuracy = itemgetter("validation_accuracy")
        best = policies.BestN(get_metric_fn=accuracy, n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), best]),
            best_fn=accuracy,  # The policy decides what stays; this, which `best_step` names.
            enable_async_checkpointing=True,
            step_prefix="epoch",
        )
        self._directory = Path(directory).absolute()
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot keep checkpoints in {self._directory} ({error.strerror})"
            ) from None
        self._manager = ocp.CheckpointManager(self._directory, options=options)

    def save(self, epoch: int, tree: Tree, memory: dict[str, Any], accuracy: float) -> None:
        """Starts saving and returns once the arrays are copied.

        Args:
          epoch: number of epochs done; the checkpoint's name.
          tree: of exact depth.
          memory: JSON-able.
          accuracy: validation accuracy of the last epoch in percent; decides which is the best.
        """
        arrays = ocp.args.StandardSave({n: leaf for n, leaf in _leaves(tree).items() if leaf.size})
        args = ocp.args.Composite(arrays=arrays, memory=ocp.args.JsonSave(memory))
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
            with _one_error_of_many():
                restored = self._manager.restore(epoch, args=args)
        # Orbax, JSON and tensorstore each have their own exceptions.
        except Exception as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"the checkpoint {self._directory / f'epoch_{epoch}'} is damaged"
                f" ({type(error).__name__}: {reason[:200]}); delete that folder, and the run goes"
                " on from the one before it"
            ) from error
        arrays = {name: np.asarray(leaf) for name, leaf in restored["arrays"].items()}
        return Restored(arrays, restored["memory"])

    def wait(self) -> None:
        """Returns once everything is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits and lets the directory go."""
        self._manager.close()


def evaluated_arrays(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of a saved `TrainState`, what `TrainState.variables` takes: averaged weights if there are."""
    weights = "ema." if any(name.startswith("ema.") for name in arrays) else "params."
    places = {weights: "params.", "batch_stats.": "batch_stats."}
    return {
        place + name.removeprefix(prefix): array
        for prefix, place in places.items()
        for name, array in arrays.items()
        if name.startswith(prefix)
    }


def rebuild(arrays: dict[str, np.ndarray], like: Tree) -> Tree:
    """Puts saved arrays into the structure of `like`, a pytree of arrays or shapes.

    Raises:
      UserError: lists the paths that are only here or only there, or differ in shape or dtype.
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


@contextmanager
def _one_error_of_many() -> Iterator[None]:
    """Keeps Python from printing an error for each array once one could not be read.

    The first error is raised and says enough; it closes the loop that all others report to, from
    tensorstore's threads and within moments.
    """
    previous, skipped = sys.unraisablehook, 0

    def skip_closed_loop(report: Any) -> None:
        nonlocal skipped
        if "loop is closed" in str(report.exc_value):
            skipped += 1
        else:
            previous(report)

    sys.unraisablehook = skip_closed_loop
    try:
        yield
    except Exception:
        seen = -1
        while seen != skipped:
            seen = skipped
            time.sleep(0.1)
        raise
    finally:
        sys.unraisablehook = previous


def _leaves(tree: Tree) -> dict[str, Any]:
    return {
        # Orbax takes "/" for a folder; no name of ours has one.
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
