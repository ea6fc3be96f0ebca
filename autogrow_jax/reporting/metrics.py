"""metrics.jsonl, one JSON object an epoch, from which all else can be redrawn; TensorBoard.

Keys of a line: `epoch` (0-based), `phase` ("growth", "finetune" or "scratch"), `depths`,
`train_loss`, `train_accuracy`, `validation_loss`, `validation_accuracy` (accuracies in percent),
`learning_rate`, `seconds` (wall clock of this epoch, without the growth after it). The line of an
epoch that only tries a block has `trial`, the stage tried, and the depths of the net on trial; the
first line after a round of trials has `kept`, a list of the stage whose trial was kept, or an empty
one. In a front, lines have `candidate`, the place of the net among those that are fine-tuned, the
cheapest first; they are trained by turns, so depths go up and down there. `notes` are the policy's,
numbers by name, where it made any. More keys are kept as they are; `elapsed` (seconds since the
run's start, over all its restarts) is used by the plots where every line has it. NaN and infinities
are written, and read back, as null.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path
from typing import Any

from autogrow_jax.errors import UserError
from autogrow_jax.reporting.workdir import replace_file, to_json

Line = Mapping[str, Any]
Lines = Sequence[Line]

# name of the scalar -> key of the metrics line
_SCALARS = {
    "loss/train": "train_loss",
    "loss/validation": "validation_loss",
    "accuracy/train": "train_accuracy",
    "accuracy/validation": "validation_accuracy",
    "learning_rate": "learning_rate",
    "seconds": "seconds",
}


class MetricsWriter(AbstractContextManager["MetricsWriter"]):
    """Appends to a metrics.jsonl; a context manager.

    Each line is handed to the operating system before `write` returns, so it outlives a killed
    process. Opening a file removes a torn last line, as appending to it would damage the middle,
    and raises a UserError where it is damaged (see `read`). A resumed run calls `truncate` first.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self._path = Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lines = truncate(self._path, math.inf)
        self._text = self._path.read_bytes().decode() if lines else ""
        self._last_epoch = lines[-1]["epoch"] if lines else -1
        self._file = open(self._path, "ab")  # noqa: SIM115 (`__exit__` closes it)

    def write(self, line: Line) -> str:
        """Appends the metrics of an epoch and returns all lines so far, as they are in the file.

        A line holds numbers of Python, numpy or 0-d JAX arrays.

        Raises:
          ValueError: if `epoch` is missing or not above that of the line before.
          TypeError: if a value is nothing JSON can hold.
        """
        text = to_json(line, "line")
        epoch = json.loads(text).get("epoch")
        if type(epoch) is not int or epoch <= self._last_epoch:
            raise ValueError(
                f"{self._path}: a line needs an integer 'epoch' above {self._last_epoch}, the last "
                f"one written; got {epoch!r}. A resumed run calls truncate(path, num_epochs) "
                "before it writes."
            )
        self._file.write(text.encode("ascii") + b"\n")
        self._file.flush()
        self._text += text + "\n"
        self._last_epoch = epoch
        return self._text

    def __exit__(self, *raised: object) -> None:
        self._file.close()


def list_scalars(line: Line) -> dict[str, float]:
    """Lists the losses, accuracies, learning rate, seconds, depths and notes that a line has.

    Of a trial only the validation accuracy, as `trial/stage_N`: the curves are those of the nets
    that are kept. So it is of a front, as `front/N` for candidate N.
    """
    if line.get("trial") is not None:
        found = {f"trial/stage_{line['trial']}": line.get("validation_accuracy")}
    elif line.get("candidate") is not None:
        found = {f"front/{line['candidate']}": line.get("validation_accuracy")}
    else:
        found = {name: line.get(key) for name, key in _SCALARS.items()}
        found |= {f"depth/stage_{stage}": depth for stage, depth in enumerate(line["depths"])}
        found["depth/total"] = sum(line["depths"])
        found |= {f"notes/{name}": value for name, value in (line.get("notes") or {}).items()}
    return {name: float(value) for name, value in found.items() if value is not None}


class TensorBoardWriter:
    """Writes one point an epoch and scalar; does nothing where tensorboardX is missing.

    The events file is opened in a `directory` that is made if missing; None writes nothing. A
    resumed run gives the epoch it goes on from, and TensorBoard hides what an earlier process wrote
    from there on.
    """

    def __init__(self, directory: str | os.PathLike[str] | None, *, first_epoch: int = 0):
        self._writer: Any = None
        if directory is None:
            return
        try:  # Here, not at the top: it is an extra.
            from tensorboardX import SummaryWriter
        except ImportError:
            return
        # File names tell seconds apart, and a run may be stopped and resumed within one.
        self._writer = SummaryWriter(
            os.fspath(directory), purge_step=first_epoch, filename_suffix=f".{first_epoch:06d}"
        )

    def write(self, line: Line) -> None:
        """Writes what `list_scalars` has of a line."""
        if self._writer is not None:
            for name, value in list_scalars(line).items():
                self._writer.add_scalar(name, value, line["epoch"])
            self._writer.flush()

    def close(self) -> None:
        """Flushes and closes the events file; closing twice does no harm."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def read(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads a metrics.jsonl, also one that is being written or whose writer was killed.

    Returns:
      One dict an epoch, in order; `depths` is a list, a NaN is None. A torn last line (no line end,
      not whole) is left out.

    Raises:
      UserError: if the file is missing, or a line is no JSON object, has no epoch, or its epoch is
        not above that of the line before; the message names file and line.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"There is no metrics file {str(path)!r}. A run writes metrics.jsonl into its workdir "
            "after its first epoch; give the workdir of such a run."
        )
    return [line for line, _ in _parse(path, path.read_bytes())]


def truncate(path: str | os.PathLike[str], num_epochs: float) -> list[dict[str, Any]]:
    """Drops the lines of epochs >= `num_epochs` and a torn last line, in one atomic step.

    A resumed run goes on from its checkpoint, which may be older than the last line written: it
    trains those epochs again and would write them twice. The file need not be there.

    Returns:
      The lines that stay, as `read` would give them. Their bytes in the file do not change.

    Raises:
      UserError: if the file is damaged (see `read`), unless all of it is dropped.
      ValueError: if `num_epochs` is negative.
    """
    if num_epochs < 0:
        raise ValueError(f"num_epochs must be 0 or more; got {num_epochs}.")
    path = Path(path)
    content = path.read_bytes() if path.exists() else b""
    parsed = _parse(path, content) if num_epochs else []
    kept = [(line, text) for line, text in parsed if line["epoch"] < num_epochs]
    wanted = b"".join(text + b"\n" for _, text in kept)
    if wanted != content:
        replace_file(path, wanted)
    return [line for line, _ in kept]


def bring_back(path: Path, text: str) -> bool:
    """Makes a file the lines that a run remembers, no more; says whether some were not there."""
    content, wanted = path.read_bytes() if path.exists() else b"", text.encode()
    if content != wanted:
        replace_file(path, wanted)
    return not content.startswith(wanted)


def growth_events(metrics: Lines) -> list[dict[str, Any]]:
    """The growths of a run, as the changes of depth from one line to the next; trials are none.

    Nor are the changes from one candidate of a front to another.

    Each is `{"epoch", "stage", "depths"}`: the epoch before which the net grew, the stage that did
    (None where several grew at once), and the depths from then on (a list).
    """
    events = []
    # After growth the last candidate may have blocks that came with its end.
    kept = [line for line in metrics if line.get("trial") is None]
    deepest = max((sum(line["depths"]) for line in kept), default=0)
    counted = (
        line for line in kept if line.get("candidate") is None or sum(line["depths"]) == deepest
    )
    for before, after in pairwise(counted):
        pairs = zip(before["depths"], after["depths"], strict=True)
        changed = [stage for stage, (old, new) in enumerate(pairs) if old != new]
        if changed:
            stage = changed[0] if len(changed) == 1 else None
            depths = list(after["depths"])
            events.append({"epoch": after["epoch"], "stage": stage, "depths": depths})
    return events


def find_kept(metrics: Lines) -> list[bool]:
    """Of each line, whether its net was kept: all but the trials that were dropped.

    The first line after a round says so in `kept`; in files older than that key, by its depths. Of
    a round that is not over, no trial is kept yet.
    """
    found: list[bool] = []
    after: Line = {"kept": ()}
    for line in reversed(metrics):
        if line.get("trial") is None:
            after = line
            found.append(True)
        elif "kept" in after:
            found.append(line["trial"] in after["kept"])
        else:
            found.append(list(line["depths"]) == list(after["depths"]))
    return found[::-1]


def kept_depths(metrics: Lines) -> list[list[int]]:
    """Of each line, the depths of the net that was kept then; trials do not change them."""
    found: list[list[int]] = []
    for line in metrics:
        on_trial = line.get("trial") is not None and found
        found.append(found[-1] if on_trial else list(line["depths"]))
    return found


def path_to(metrics: Sequence[Any], depths: Sequence[int]) -> list[Any]:
    """The lines of the epochs behind a net: of growth up to its depths, then of its fine-tuning."""
    return [
        line
        for line, kept in zip(metrics, find_kept(metrics), strict=True)
        if (list(line["depths"]) == list(depths) or line.get("candidate") is None)
        and kept
        and all(here <= there for here, there in zip(line["depths"], depths, strict=True))
    ]


def best_accuracy(metrics: Lines) -> float:
    """The best validation accuracy of the nets that were kept, in percent; NaN where none is.

    In a front, of the net of the last line and those that it grew from.
    """
    if metrics and metrics[-1].get("candidate") is not None:
        metrics = path_to(metrics, metrics[-1]["depths"])
    pairs = zip(metrics, find_kept(metrics), strict=True)
    values = [line.get("validation_accuracy") for line, kept in pairs if kept]
    finite = (value for value in values if value is not None and math.isfinite(value))
    return max(finite, default=math.nan)


def _parse(path: Path, content: bytes) -> list[tuple[dict[str, Any], bytes]]:
    """(line, its bytes without the line end) of every whole line."""
    parsed: list[tuple[dict[str, Any], bytes]] = []
    texts = content.split(b"\n")
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            continue
        try:
            line = json.loads(text.decode("utf-8"), parse_constant=lambda name: None)
        except ValueError:  # UnicodeDecodeError and JSONDecodeError are both ValueErrors.
            if number == len(texts):
                break  # No line end and not whole: the writer was stopped within this line.
            line = None
        epoch = line.get("epoch") if isinstance(line, dict) else None
        last = parsed[-1][0]["epoch"] if parsed else -1
        if type(epoch) is int and epoch > last:
            parsed.append((line, text))
            continue
        problem = "expected a JSON object with an integer 'epoch' >= 0"
        if type(epoch) is int and epoch >= 0:
            problem = f"epoch {epoch} comes after epoch {last}; two runs may have written here"
        found = text[:60].decode("utf-8", "replace")
        raise UserError(
            f"{path}, line {number}: {problem}. Found {found!r}. Delete this line if the others are"
            " right; else delete the workdir and run again."
        )
    return parsed
