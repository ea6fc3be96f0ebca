"""A run's folder: what lies where, whose it is, and how its files are written."""

import io
import json
import math
import numbers
import os
import platform
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock, Timeout

from autogrow_jax.errors import UserError
from autogrow_jax.process import user_path


class Workdir:
    """Paths of a run's files, which need not be there."""

    def __init__(self, root: Path):
        self.root = root
        self.config = root / "config.json"
        self.dataset = root / "dataset.json"
        self.train_ids = root / "train_ids.npy"
        self.metrics = root / "metrics.jsonl"
        self.result = root / "result.json"
        self.checkpoints = root / "checkpoints"
        self.amid = root / "amid_epoch.npz"
        self.candidates = root / "candidates"
        self.picture = root / "plots" / "growth.png"
        self.report = root / "report.html"
        self.validation_predictions = root / "validation_predictions.npz"
        self.test_predictions = root / "test_predictions.npz"
        self.snapshots = root / "snapshots"
        self.tensorboard = root / "tensorboard"
        self.tracker = root / "tracker.json"
        self.lock = root / ".lock"

    @property
    def is_begun(self) -> bool:
        """Whether it holds anything of a run that another config must not touch.

        A start that failed before its first epoch leaves a config.json and nothing to lose.
        """
        if self.checkpoints.is_dir() and any(self.checkpoints.iterdir()):
            return True
        files = self.metrics, self.result, self.amid
        return any(f.exists() and f.stat().st_size > 0 for f in files)


# Of the longest path that Linux takes, less what Orbax needs below a workdir.
_LONGEST = 3800


def find_workdir(path: str | os.PathLike[str]) -> Workdir:
    """Returns the workdir that a user named, which need not be there.

    Raises:
      UserError: no system can have the path; or Orbax, which keeps the checkpoints in it, would
        take it for another, as it does where a part of it looks like one of Windows or an address.
    """
    root = user_path(path)
    whole, why = root.absolute(), ""
    for part in whole.parts[1:]:
        if "\\" in part or part.endswith(":"):
            why = f"{part} in it looks like a path of Windows or an address"
        elif part != part.encode("utf-8", "replace").decode():
            why = f"{part} in it is no Unicode"
    if not why and len(os.fsencode(whole)) > _LONGEST:
        why = f"it has more than {_LONGEST} bytes"
    if why:
        raise UserError(f"the workdir {root} cannot hold checkpoints: {why}; choose another folder")
    return Workdir(root)


@contextmanager
def hold(lock: Path, waits: bool = False) -> Iterator[None]:
    """Keeps other processes that ask for the same lock out, and makes its folder if need be.

    One that `waits` has its turn when the other ends. The lock is the operating system's: one that
    was killed holds nothing. Who holds it is written beside it, for the message.

    Raises:
      UserError: names process and host of who holds it; or the folder cannot be written to.
    """
    folder, owner = lock.parent, lock.with_name(f"{lock.name}-owner")
    taken = FileLock(lock)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        taken.acquire(timeout=-1 if waits else 0)
        me = f"process {os.getpid()} on {platform.node()}, since {time.strftime('%Y-%m-%d %H:%M')}"
        replace_file(owner, me.encode())
    except Timeout:
        try:
            who = owner.read_text(errors="replace")
        except OSError:  # It has only just begun.
            who = "another process"
        raise UserError(
            f"the workdir {folder} is in use by {who}; wait for it or stop it, or choose another"
            " with --workdir"
        ) from None
    except OSError as error:
        taken.release()
        why = "it is a file" if folder.is_file() else error.strerror
        for place in (folder, *folder.parents):
            if place.is_symlink() and not place.exists():
                why = f"{place} is a link to {os.readlink(place)}, where there is nothing"
        raise UserError(
            f"cannot write to the workdir {folder} ({why}); choose another with --workdir"
        ) from None
    try:
        yield
    finally:
        owner.unlink(missing_ok=True)
        taken.release()


def open_workdir(
    workdir: Workdir, config: dict[str, Any], differences: Callable[[Any, Any], list[str]]
) -> None:
    """Takes the folder over from an earlier start of the same run, or begins one, for `config`.

    Files that an earlier start was killed at before they were whole are deleted. `differences`
    lists, as lines, what differs of an older and a new config and may not.

    Raises:
      UserError: where the folder holds a run of another config (then lists the keys that differ)
        or of none that can be read.
    """
    if workdir.is_begun and (lines := differences(read_config(workdir), config)):
        raise UserError(
            f"{workdir.root} holds a run of another config; choose another --workdir, or"
            " delete this one. What differs:\n  " + "\n  ".join(lines)
        )
    folders = workdir.root, workdir.candidates, workdir.snapshots, workdir.picture.parent
    for folder in folders:
        for unfinished in folder.glob(".*.tmp"):
            unfinished.unlink()
    replace_file(workdir.config, to_json(config, "config", indent=2).encode() + b"\n")


def read_config(workdir: Workdir) -> dict[str, Any]:
    """The nested settings of config.json, as JSON has them: tuples are lists.

    Raises:
      UserError: where there is none or it is damaged.
    """
    try:
        return read_object(workdir.config)
    except FileNotFoundError:
        if not workdir.is_begun:
            raise UserError(f"{workdir.root} holds no run; give the workdir of one") from None
        raise UserError(
            f"{workdir.root} holds a run but no config.json, which says what run it is; bring that"
            " back or choose another --workdir"
        ) from None
    except (ValueError, OSError) as error:
        raise UserError(
            f"{workdir.config} is damaged ({error}); without it nobody knows what run it belongs"
            " to, so bring it back or choose another --workdir"
        ) from None


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; ValueError where it holds none, and OSErrors as they come."""
    loaded = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(loaded, dict):
        raise ValueError(f"it holds a JSON {type(loaded).__name__}, expected an object")
    return loaded


def to_jsonable(value: Any, name: str = "value") -> Any:
    """Turns scalars and arrays of numpy and JAX, tuples and mappings into what JSON can hold.

    NaN and the infinities become None (JSON has no word for them, and the epoch at which a run
    diverged is the one whose line must not be lost). Other numbers keep their exact value.

    Raises:
      TypeError: for a value of another type; the message calls it `name`, and names the entry.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
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
    """Writes `content` to `path` so that at any moment the old or the new file is there, whole."""
    with replacing(path) as file:
        file.write(content)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a file that takes the place of the one at `path` once it is whole; makes its folder.

    The temporary file lies beside `path`, as a rename is atomic only within one file system.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner can read; a result is for everyone.
        os.chmod(temporary, path.stat().st_mode & 0o777 if path.exists() else 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_npz(path: str | os.PathLike[str], arrays: Mapping[str, Any]) -> None:
    """Writes arrays as an .npz file, as `replace_file` does."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    replace_file(path, buffer.getvalue())


def read_npz(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads all arrays of an .npz file; OSError or ValueError where it is missing or damaged."""
    try:
        # np.load leaves a file open that it opened itself and could not read.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (EOFError, zipfile.BadZipFile) as error:
        raise ValueError(str(error)) from error
