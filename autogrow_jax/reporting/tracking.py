"""A run told to a tracker of experiments: wandb, trackio or mlflow, beside the terminal.

A tracker is three calls here: begin, log, finish. Where its runs go is its own to say, by its own
environment variables (WANDB_MODE, WANDB_PROJECT, MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME,
TRACKIO_SPACE_ID). `tracker.json` in the workdir remembers the tracked run, which a run that is
resumed goes on with.
"""

import json
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from autogrow_jax.errors import UserError
from autogrow_jax.reporting.console import EpochStart, Reporter
from autogrow_jax.reporting.metrics import Line, Lines, list_scalars
from autogrow_jax.reporting.numbers import format_depths
from autogrow_jax.reporting.workdir import Workdir, read_object, replace_file, to_json

_PROJECT = "autogrow_jax"
_LONGEST = 5000  # Signs of a text that all trackers take.
_AT_ONCE = 100  # Parameters that mlflow takes in one call.


class Tracker(Protocol):
    """What the adapters below make of a package."""

    def begin(self, known: str, name: str, workdir: Workdir, config: Mapping[str, Any]) -> str:
        """Begins a run, or goes on with the one `known`, if any; returns what knows it again."""

    def log(self, values: Mapping[str, float], epoch: int) -> None: ...

    def finish(self, values: Mapping[str, float], words: Mapping[str, str], ended: bool) -> None:
        """Ends a run that has `ended`, with its result, or was stopped before."""


class Wandb:
    def __init__(self) -> None:
        import wandb

        self._wandb = wandb

    def begin(self, known: str, name: str, workdir: Workdir, config: Mapping[str, Any]) -> str:
        identity = known or uuid.uuid4().hex
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=name,
            id=identity,
            resume="allow",
            dir=str(workdir.root),
            config=dict(config),
        )
        return identity

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        self._run.log(dict(values), step=epoch)

    def finish(self, values: Mapping[str, float], words: Mapping[str, str], ended: bool) -> None:
        self._run.summary.update({**values, **words})
        self._run.finish(exit_code=0 if ended else 1)


class Trackio:
    def __init__(self) -> None:
        import trackio

        self._trackio, self._epoch = trackio, 0

    def begin(self, known: str, name: str, workdir: Workdir, config: Mapping[str, Any]) -> str:
        # A run is known by its name there, and two workdirs may be called alike.
        identity = known or f"{name}-{uuid.uuid4().hex[:8]}"
        given = {"project": _PROJECT, "name": identity, "config": dict(config)}
        self._run = self._trackio.init(**given, resume="allow")
        return identity

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        self._epoch = epoch
        self._run.log(dict(values), step=epoch)

    def finish(self, values: Mapping[str, float], words: Mapping[str, str], ended: bool) -> None:
        if ended:
            self._run.log({**values, **words}, step=self._epoch)
        self._run.finish()


class Mlflow:
    def __init__(self) -> None:
        import mlflow

        self._mlflow = mlflow

    def begin(self, known: str, name: str, workdir: Workdir, config: Mapping[str, Any]) -> str:
        if known:
            return str(self._mlflow.start_run(run_id=known).info.run_id)
        run = self._mlflow.start_run(run_name=name)
        pairs = list(config.items())
        for first in range(0, len(pairs), _AT_ONCE):
            self._mlflow.log_params(dict(pairs[first : first + _AT_ONCE]))
        return str(run.info.run_id)

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        self._mlflow.log_metrics(dict(values), step=epoch)

    def finish(self, values: Mapping[str, float], words: Mapping[str, str], ended: bool) -> None:
        self._mlflow.log_metrics(dict(values))
        self._mlflow.set_tags(dict(words))
        self._mlflow.end_run("FINISHED" if ended else "KILLED")


_TRACKERS: dict[str, Callable[[], Tracker]] = {
    "wandb": Wandb,
    "trackio": Trackio,
    "mlflow": Mlflow,
}


def track(reporter: Reporter, name: str, workdir: Workdir, config: Mapping[str, Any]) -> Reporter:
    """A reporter that tells `reporter` all, and the tracker of that name too; "" is no tracker.

    `config` is flat. UserError where the tracker's package is not installed.
    """
    import jax  # Commands that only read a run do without it.

    if not name or jax.process_index():
        return reporter
    try:
        return Tracked(reporter, name, _TRACKERS[name](), workdir, config)
    except ImportError as error:
        raise UserError(
            f"config.log.tracker is {name!r}, but it cannot be imported ({error}); pip install"
            f" 'autogrow_jax[{name}]', or leave log.tracker out"
        ) from None


class Tracked(Reporter):
    """Tells another reporter, and a tracker, which may fail: then it is told no more.

    A growth is a point of `growth/stage_N`, the depth of the stage, at the epoch before which the
    net grew.
    """

    def __init__(
        self,
        inner: Reporter,
        name: str,
        tracker: Tracker,
        workdir: Workdir,
        config: Mapping[str, Any],
    ):
        self._inner, self._name, self._tracker = inner, name, tracker
        self._workdir, self._config = workdir, config
        self._has_begun, self._is_on, self._epoch = False, False, 0

    def _tell(self, call: Callable[..., Any], *given: Any) -> Any:
        # Whatever a tracker raises: no network, no login, a full disk.
        try:
            return call(*given)
        except Exception as error:
            self._is_on = False
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            self._inner.message(f"{self._name} failed ({reason}); the run goes on without it")

    def _read(self) -> str:
        try:
            return str(read_object(self._workdir.tracker).get(self._name, ""))
        except (OSError, ValueError):
            return ""

    def begin_run(self, title: str, *, previous: Lines = ()) -> None:
        self._inner.begin_run(title, previous=previous)
        config = {k: json.dumps(v) if isinstance(v, tuple) else v for k, v in self._config.items()}
        if self._has_begun:  # A run that goes back to a checkpoint begins again.
            return
        self._has_begun = True
        # What an earlier start tracked, unless it was another run's that was here before.
        known = self._read() if previous else ""
        given = known, self._workdir.root.absolute().name, self._workdir, config
        self._is_on = True
        self._epoch = previous[-1]["epoch"] + 1 if previous else 0
        if identity := self._tell(self._tracker.begin, *given):
            content = to_json({self._name: identity}, "tracker")
            self._tell(replace_file, self._workdir.tracker, content.encode())

    def begin_epoch(self, start: EpochStart) -> None:
        self._inner.begin_epoch(start)

    def epoch_progress(self, *given: Any, **more: Any) -> None:
        self._inner.epoch_progress(*given, **more)

    def message(self, text: str) -> None:
        self._inner.message(text)

    def end_epoch(self, line: Line) -> None:
        self._inner.end_epoch(line)
        self._epoch = line["epoch"] + 1
        if self._is_on:
            self._tell(self._tracker.log, list_scalars(line), line["epoch"])

    def growth(self, before: Sequence[int], after: Sequence[int], initializer: str) -> None:
        self._inner.growth(before, after, initializer)
        pairs = enumerate(zip(before, after, strict=True))
        grown = {f"growth/stage_{i}": float(new) for i, (old, new) in pairs if old != new}
        if self._is_on:
            self._tell(self._tracker.log, grown, self._epoch)

    def end_run(self, result: Line | None = None) -> None:
        self._inner.end_run(result)
        if result is not None:
            names = ("test_accuracy", "best_validation_accuracy", "num_params", "epochs")
            values = {name: float(result[name]) for name in names if result.get(name) is not None}
            growths = [
                f"epoch {g['epoch']}: {format_depths(g['depths'])}" for g in result["growth"]
            ]
            words = {"depths": format_depths(result["depths"]), "growth": "; ".join(growths)}
            self._finish(values, {key: text[:_LONGEST] for key, text in words.items()}, True)

    def _finish(self, values: Mapping[str, float], words: Mapping[str, str], ended: bool) -> None:
        if self._is_on:
            self._is_on = False
            self._tell(self._tracker.finish, values, words, ended)

    def close(self) -> None:
        self._inner.close()
        self._finish({}, {}, False)
