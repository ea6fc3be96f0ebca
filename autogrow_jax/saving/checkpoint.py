"""Checkpoints, which a run goes on from, and how they are told from damaged ones.

A checkpoint holds exact-depth arrays, and beside them all else a run has to remember, as JSON.
Orbax saves in the background; what a killed process left half written is never taken for one.
Leaves are saved under their paths rather than as a tree: a zero-length stack (a stage of one block)
is not saved, which Orbax refuses, and on restoring every path and shape is compared, which Orbax
does not do.

Beside what a run remembers stand checksums of it, of the arrays and of the accuracy: of a changed
byte in an array neither Orbax nor tensorstore says anything.
"""

import gc
import json
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from operator import itemgetter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from autogrow_jax import hosts
from autogrow_jax.errors import UserError
from autogrow_jax.process import quiet, skip_closed_loops
from autogrow_jax.reporting import Workdir, read_result, replace_file, to_json
from autogrow_jax.saving.arrays import Restored, Tree, leaves_by_path

_SEAL = "checksums"  # Of what a run remembers, the entry that is not the run's.
_METRIC = "validation_accuracy"


class DamagedError(UserError):
    """A checkpoint that is not what was saved; names its folder, and what is wrong."""


class CheckpointStore:
    """The checkpoints of one run: the newest `keep`, and the one of the best validation accuracy.

    The directory is made if it is not there; UserError where it cannot be. Without `keep` nothing
    is made, saved or deleted: another process may be at work in it.
    """

    def __init__(self, directory: str | Path, keep: int | None = None):
        self._directory = Path(directory).absolute()
        kept: dict[str, Any] = {}
        try:
            if keep is not None:
                self._directory.mkdir(parents=True, exist_ok=True)
                kept = self._keep(keep)
        except OSError as error:
            raise UserError(
                f"cannot keep checkpoints in {self._directory} ({error.strerror})"
            ) from None
        with quiet("absl"):  # It warns of what `read_only` means.
            options = ocp.CheckpointManagerOptions(
                enable_async_checkpointing=True, step_prefix="epoch", read_only=keep is None, **kept
            )
            self._manager = ocp.CheckpointManager(self._directory, options=options)

    def _keep(self, keep: int) -> dict[str, Any]:
        """Orbax's options about which stay."""
        hosts.first(self._mend)
        policies = checkpoint_managers.preservation_policy
        best = itemgetter(_METRIC)
        kept = policies.BestN(get_metric_fn=best, n=1, keep_checkpoints_without_metrics=False)
        both = policies.AnyPreservationPolicy([policies.LatestN(keep), kept])
        return {"preservation_policy": both, "best_fn": best}

    def _mend(self) -> None:
        """Mends the accuracies by which Orbax chooses the best."""
        for folder in self._directory.glob("epoch_*"):
            file, accuracy = folder / "metrics" / "metrics", _read_accuracy(folder)
            if file.exists() and accuracy != _read_number(file):
                if accuracy is None:
                    file.unlink()  # A damaged file keeps Orbax from opening any of them.
                else:
                    replace_file(file, to_json({_METRIC: accuracy}).encode())

    def save(self, epoch: int, tree: Tree, memory: dict[str, Any], accuracy: float) -> None:
        """Starts saving and returns once the arrays, of exact depth, are copied.

        `epoch` counts those done and names the checkpoint, `memory` is JSON-able, the validation
        `accuracy` of the last epoch in percent decides which is the best.
        OSError where this or an earlier one could not be written; from `wait` and `close` too.
        """
        arrays = {name: leaf for name, leaf in leaves_by_path(tree).items() if leaf.size}
        accuracy = float(accuracy)
        sealed = ocp.args.JsonSave(memory | {_SEAL: _seal(arrays, memory, accuracy)})
        args = ocp.args.Composite(arrays=ocp.args.StandardSave(arrays), memory=sealed)
        with self._as_os_error():
            if not self._manager.save(epoch, args=args, metrics={_METRIC: accuracy}):
                raise RuntimeError(f"the checkpoint {self._folder(epoch)} was there before")

    def latest(self) -> int | None:
        """Number of epochs done at the newest checkpoint; None where there is none."""
        return self._manager.latest_step()

    def best(self) -> int | None:
        """The checkpoint of the highest validation accuracy, of equal ones the newest."""
        found = {epoch: _read_accuracy(self._folder(epoch)) for epoch in self.all_epochs()}
        known = {epoch: accuracy for epoch, accuracy in found.items() if accuracy is not None}
        return max(known, key=lambda epoch: (known[epoch], epoch), default=None)

    def all_epochs(self) -> list[int]:
        """What is kept, oldest first."""
        return sorted(self._manager.all_steps())

    def read(self, epoch: int) -> Restored:
        """Reads a checkpoint, whatever is in it; DamagedError where that is not what was saved."""
        args = ocp.args.Composite(arrays=ocp.args.StandardRestore(), memory=ocp.args.JsonRestore())
        with skip_closed_loops():
            try:
                restored = self._manager.restore(epoch, args=args)
                arrays = jax.tree.map(np.asarray, restored["arrays"])
                memory = dict(restored["memory"])
                seal = memory.pop(_SEAL, None)  # Those of before there were checksums are believed.
                if seal is None or seal == _seal(arrays, memory, seal.get(_METRIC)):
                    return Restored(arrays, memory)
                reason = "its content does not match its checksums"
            # Orbax, JSON and tensorstore each have their own exceptions.
            except Exception as error:
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            gc.collect()  # With the exception go Orbax's other reads, each of which complains.
            raise DamagedError(
                f"the checkpoint {self._folder(epoch)} is damaged ({reason}); the same command that"
                " began the run goes on from the one before it"
            )

    def read_newest(
        self,
        why_not: Callable[[Mapping[str, Any]], str],
        tell: Callable[[str], None],
        other: str = "",
    ) -> Restored | None:
        """Reads the newest checkpoint that a run can go on from; None where there is none at all.

        Those after it are put aside, as `damaged.epoch_12`, and `tell` says so. `why_not` says of
        what a run remembers why it cannot go on from there, or "".

        Raises:
          UserError: there are checkpoints, and of each what is wrong; nothing is put aside. Where
            the run has an `other` to go on from, all are, and it is None.
        """
        passed: dict[int, str] = {}
        for epoch in reversed(self.all_epochs()):
            try:
                restored = self.read(epoch)
            except DamagedError as error:
                passed[epoch] = str(error).partition("; ")[0]
                continue
            reason = why_not(restored.memory)
            if not reason:
                self._put_aside(passed, f"epoch {epoch}", tell)
                return restored
            passed[epoch] = f"the checkpoint {self._folder(epoch)} cannot be used: {reason}"
        if passed and not other:
            raise UserError(
                f"{'; '.join(passed.values())}; there is no other to go on from, so bring back what"
                " is missing, or start again in another --workdir"
            )
        self._put_aside(passed, other, tell)
        return None

    def _put_aside(
        self, passed: Mapping[int, str], chosen: str, tell: Callable[[str], None]
    ) -> None:
        for epoch, reason in passed.items():
            aside = self._directory / f"damaged.epoch_{epoch}"
            if hosts.is_first():
                shutil.rmtree(aside, ignore_errors=True)
                with suppress(FileNotFoundError):
                    self._folder(epoch).rename(aside)
            tell(f"{reason}; it is now {aside.name}, and the run goes on from {chosen}")
        if passed:
            hosts.from_first(None)  # Others look once it is done.
            self._manager.reload()

    def _folder(self, epoch: int) -> Path:
        return self._directory / f"epoch_{epoch}"

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


def read_last(store: CheckpointStore, workdir: Workdir, what_for: str) -> Restored:
    """Reads the newest checkpoint of a run, which is that of the result where there is one.

    UserError where there is none, it is damaged or another; the way out is to train it again.
    """
    latest = store.latest()
    if latest is None:
        raise UserError(f"{workdir.root} holds no checkpoint yet; nothing to {what_for}")
    wanted = read_result(workdir.result).get("epochs") if workdir.result.exists() else latest
    again = f"delete {workdir.result}, and the same command that began the run makes both again"
    if wanted not in (None, latest):
        raise UserError(
            f"{workdir.result} is of epoch {wanted}, whose checkpoint is gone; the newest is of"
            f" epoch {latest}: {again}, or load which='best'"
        )
    try:
        return store.read(latest)
    except DamagedError as error:
        if not workdir.result.exists():
            raise
        raise UserError(f"{str(error).partition('; ')[0]}; {again}") from error


def _seal(arrays: Mapping[str, Any], memory: Any, accuracy: float | None) -> dict[str, Any]:
    """An accuracy, with checksums of arrays by path, and of it and what is remembered."""
    found = 0
    for name, leaf in sorted(arrays.items()):
        array = np.ascontiguousarray(leaf)
        found = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode(), found)
        found = zlib.crc32(array.reshape(-1).view(np.uint8).data, found)
    text = to_json([memory, accuracy], "memory")
    return {_METRIC: accuracy, "arrays": found, "memory": zlib.crc32(text.encode())}


def _read_accuracy(folder: Path) -> float | None:
    """The validation accuracy of a checkpoint, in percent; None where nobody knows it any more."""
    try:
        memory = json.loads((folder / "memory" / "metadata").read_text())
        seal = memory.pop(_SEAL)
        if _seal({}, memory, seal[_METRIC])["memory"] == seal["memory"]:
            return float(seal[_METRIC])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return _read_number(folder / "metrics" / "metrics")


def _read_number(file: Path) -> float | None:
    try:
        return float(json.loads(file.read_text())[_METRIC])
    except (OSError, ValueError, KeyError, TypeError):
        return None


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
    for name, leaf in leaves_by_path(like).items():
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
