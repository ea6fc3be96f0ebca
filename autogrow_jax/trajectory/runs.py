"""What a trajectory is made of: workdirs of runs that kept snapshots, and whether they compare."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from autogrow_jax import build
from autogrow_jax.errors import UserError
from autogrow_jax.reporting.metrics import growth_events, read
from autogrow_jax.reporting.workdir import Workdir, read_config
from autogrow_jax.settings import Settings, flatten
from autogrow_jax.training.snapshots import Snapshot, read_snapshot, snapshot_files

# What has to be the same for weights to be of one space and losses of one kind.
SHARED_KEYS = ("model.family", "model.stem", "data.name", "data.image_size")


class Run(NamedTuple):
    """A run that kept snapshots.

    Attributes:
      workdir: its folder.
      settings: of the run.
      snapshots: at least two, in order.
      growth: `{"epoch", "stage", "depths"}` of each growth before the last snapshot.
      finetune: epochs done when fine-tuning began, None where it has not.
    """

    workdir: Path
    settings: Settings
    snapshots: list[Snapshot]
    growth: list[dict[str, Any]]
    finetune: int | None


def read_run(workdir: str | os.PathLike[str], data_dir: str = "") -> Run:
    """Reads a run that is finished or going on.

    Args:
      workdir: its folder.
      data_dir: where its data lie now, "" for where the run found them.

    Raises:
      UserError: where it is no run, kept fewer than two snapshots, or a file is damaged.
    """
    folder = Workdir(Path(workdir).expanduser())
    config = read_config(folder)
    files = snapshot_files(folder.root / "snapshots")
    if len(files) < 2:
        kept = "one snapshot" if files else "no snapshots"
        raise UserError(
            f"the run in {folder.root} kept {kept} of its weights, and a path needs at least two;"
            " run it with --config.snapshots.every=4 (epochs), in another --workdir if it is"
            " finished"
        )
    if data_dir:
        config.setdefault("data", {})["dir"] = data_dir
    settings = build.resolve(config)
    snapshots = [read_snapshot(file) for file in files]
    last = snapshots[-1].epoch
    metrics = [line for line in read(folder.metrics) if line["epoch"] < last]
    phases = [line["epoch"] for line in metrics if line.get("phase") == "finetune"]
    return Run(folder.root, settings, snapshots, growth_events(metrics), min(phases, default=None))


def check_comparable(runs: Sequence[Run]) -> None:
    """Raises UserError where runs are not of one family, stem and data set; names the key."""
    first = runs[0]
    for run in runs[1:]:
        ours, theirs = flatten(first.settings), flatten(run.settings)
        for key in SHARED_KEYS:
            if ours[key] != theirs[key]:
                raise UserError(
                    f"{first.workdir} and {run.workdir} cannot be drawn in one plane: {key} is"
                    f" {ours[key]!r} in the first, {theirs[key]!r} in the second; give runs of one"
                    " kind of network on one data set"
                )


def final_depths(runs: Sequence[Run]) -> tuple[int, ...]:
    """The least depths that every snapshot of every run fits in."""
    depths = [snapshot.depths for run in runs for snapshot in run.snapshots]
    return tuple(max(stage) for stage in zip(*depths, strict=True))


def labels(runs: Sequence[Run]) -> list[str]:
    """A name for each run: policy and initialiser, and its folder where these are not enough."""
    names = [
        f"{run.settings.growth.policy}, {run.settings.growth.initializer}"
        if run.settings.mode == "grow"
        else "from scratch"
        for run in runs
    ]
    return [
        name if names.count(name) == 1 else f"{name} ({run.workdir.resolve().name})"
        for name, run in zip(names, runs, strict=True)
    ]
