"""A run's folder: what lies where, and whose it is."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from autogrow_jax import config as config_lib
from autogrow_jax.errors import UserError
from autogrow_jax.reporting.files import replace_file, to_json


class Workdir(NamedTuple):
    """Paths of a run's files."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.json"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def result(self) -> Path:
        return self.root / "result.json"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def plots(self) -> Path:
        return self.root / "plots"

    @property
    def tensorboard(self) -> Path:
        return self.root / "tensorboard"


def open_workdir(path: str | os.PathLike[str], config: Any) -> Workdir:
    """Makes the folder, or takes it over from an earlier start of the same run.

    Args:
      path: the folder.
      config: resolved.

    Raises:
      UserError: where the folder cannot be written to, or holds a run of another config; then
        lists the keys that differ.
    """
    workdir = Workdir(Path(path).expanduser())
    try:
        workdir.root.mkdir(parents=True, exist_ok=True)
        probe = workdir.root / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"cannot write to the workdir {workdir.root} ({error.strerror}); choose another with"
            " --workdir"
        ) from None
    if workdir.config.exists():
        lines = config_lib.differences(read_config(workdir), config.to_dict())
        if lines:
            raise UserError(
                f"{workdir.root} holds a run of another config; choose another --workdir, or"
                " delete this one. What differs:\n  " + "\n  ".join(lines)
            )
    replace_file(workdir.config, to_json(config.to_dict(), "config", indent=2).encode() + b"\n")
    return workdir


def read_config(workdir: Workdir) -> dict[str, Any]:
    """The nested settings of config.json, sequences as tuples.

    Raises:
      UserError: where there is none or it is damaged.
    """
    try:
        loaded = json.loads(workdir.config.read_text())
    except FileNotFoundError:
        raise UserError(f"{workdir.root} holds no run: there is no config.json in it") from None
    except ValueError as error:
        raise UserError(f"{workdir.config} is damaged ({error}); delete it") from None
    return loaded
