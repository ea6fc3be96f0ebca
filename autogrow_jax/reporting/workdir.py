"""A run's folder: what lies where, and whose it is."""

import contextlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from autogrow_jax.errors import UserError
from autogrow_jax.reporting.files import replace_file, to_json


class Workdir(NamedTuple):
    """Paths of a run's files, which need not be there."""

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
    def is_begun(self) -> bool:
        """Whether it holds anything of a run that another config must not touch.

        A start that failed before its first epoch leaves a config.json and nothing to lose.
        """
        files = (self.metrics, self.result)
        with contextlib.suppress(OSError):
            if any(self.checkpoints.iterdir()):
                return True
        return any(file.exists() and file.stat().st_size > 0 for file in files)

    @property
    def plots(self) -> Path:
        return self.root / "plots"

    @property
    def tensorboard(self) -> Path:
        return self.root / "tensorboard"


def open_workdir(
    workdir: Workdir,
    config: dict[str, Any],
    differences: Callable[[Any, Any], list[str]],
) -> None:
    """Makes the folder, or takes it over from an earlier start of the same run.

    Args:
      workdir: the folder.
      config: nested plain values, which are written there.
      differences: what of an older and a new config may not differ, as lines.

    Raises:
      UserError: where the folder cannot be written to, or holds a run of another config (then
        lists the keys that differ) or of none that can be read.
    """
    try:
        workdir.root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir.root):
            pass
    except OSError as error:
        why = "it is a file" if workdir.root.is_file() else error.strerror
        raise UserError(
            f"cannot write to the workdir {workdir.root} ({why}); choose another with --workdir"
        ) from None
    if workdir.is_begun:
        lines = differences(read_config(workdir), config)
        if lines:
            raise UserError(
                f"{workdir.root} holds a run of another config; choose another --workdir, or"
                " delete this one. What differs:\n  " + "\n  ".join(lines)
            )
    replace_file(workdir.config, to_json(config, "config", indent=2).encode() + b"\n")


def begun_with(workdir: Workdir) -> str | None:
    """The `model.convolution` that a run was begun with; None where none was.

    Raises:
      UserError: where its config.json cannot be read.
    """
    if not workdir.is_begun:
        return None
    model = read_config(workdir).get("model")
    return model.get("convolution") if isinstance(model, dict) else None


def read_config(workdir: Workdir) -> dict[str, Any]:
    """The nested settings of config.json, as JSON has them: tuples are lists.

    Raises:
      UserError: where there is none or it is damaged.
    """
    try:
        loaded = json.loads(workdir.config.read_text())
        if not isinstance(loaded, dict):
            raise ValueError("it holds no JSON object")
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
    return loaded
