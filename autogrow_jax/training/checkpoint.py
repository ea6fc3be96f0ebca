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
    """A checkpoint that was read.

    Attributes:
      arrays: {path: numpy array} as saved.
      memory: what was given to `save` as JSON.
    """

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
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(
                [
                    policies.LatestN(keep),
                    policies.BestN(
                        get_metric_fn=_accuracy,
                        n=1,
                        keep_checkpoints_without_metrics=False,
                    ),
                ]
            ),
            # The policy decides what stays; this, which `best_step` names.
            best_fn=_accuracy,
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
        arrays = {name: leaf for name, leaf in _leaves(tree).items() if leaf.size}
        args = ocp.args.Composite(
            arrays=ocp.args.StandardSave(arrays), memory=ocp.args.JsonSave(memory)
        )
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
        """Reads a checkpoint without knowing what is in it.

        Raises:
          UserError: where it is damaged; names its folder.
        """
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
    chosen = {
        "params." + name.removeprefix(weights): array
        for name, array in arrays.items()
        if name.startswith(weights)
    }
    return chosen | {name: a for name, a in arrays.items() if name.startswith("batch_stats.")}


def _accuracy(metrics: dict[str, float]) -> float:
    return metrics["validation_accuracy"]


def rebuild(arrays: dict[str, np.ndarray], like: Tree) -> Tree:
    """Puts saved arrays into the structure of `like`.

    Args:
      arrays: from `CheckpointStore.read`.
      like: a pytree of arrays or shapes.

    Raises:
      UserError: lists the paths that are only here or only there, or differ in shape or dtype.
    """
    wanted = _leaves(like)
    found = dict(arrays)
    complaints = []
    leaves = []
    for name, leaf in wanted.items():
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
    """Within it, the first array that cannot be read closes the loop that all others report to.

    They do so from tensorstore's threads, within moments, and Python prints each of their errors;
    the first is raised and says enough.
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
