"""From workdirs to a picture: read, pad, find the plane, evaluate the grid, write."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
from tqdm import tqdm

from autogrow_jax import build
from autogrow_jax.errors import UserError
from autogrow_jax.process import user_path
from autogrow_jax.reporting import read_result, replace_file, to_json
from autogrow_jax.reporting.drawing import save_figure
from autogrow_jax.reporting.metrics import growth_events, path_to, read
from autogrow_jax.reporting.workdir import Workdir, read_config
from autogrow_jax.settings import Settings, flatten
from autogrow_jax.training.ending import describe_devices, find_versions
from autogrow_jax.training.evaluation import read_known
from autogrow_jax.training.snapshots import Snapshot, read_snapshot, snapshot_files
from autogrow_jax.trajectory.draw import figure
from autogrow_jax.trajectory.pad import make_pad
from autogrow_jax.trajectory.plane import (
    choose_examples,
    grid_axes,
    loss_in_plane,
    make_loss,
    principal_plane,
    random_plane,
)

DIRECTIONS = ("pca", "random")
# What has to be the same for weights to be of one space and losses of one kind.
SHARED_KEYS = ("model.family", "model.stem", "data.name", "data.classes", "data.image_size")


class Run(NamedTuple):
    """A run that kept snapshots."""

    workdir: Path
    settings: Settings
    snapshots: list[Snapshot]  # At least two, in order.
    growth: list[dict[str, Any]]  # {"epoch", "stage", "depths"}, of those before the last snapshot.
    finetune: int | None  # Epochs done when fine-tuning began, if it has.
    perturbed: float = 0.0  # How far weights were moved towards fresh ones then.


def trajectory(
    runs: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    data_dir: str = "",
    split: str = "train",
    directions: str = "pca",
    grid: int = 25,
    examples: int = 1000,
    batch: int = 1000,
    seed: int = 0,
    show_progress: bool | None = None,
) -> dict[str, Any]:
    """Draws the paths of runs over the loss and writes trajectory.png, .svg and .json.

    Memory: the padded parameters of all snapshots lie on the host, 4 bytes each.

    Args:
      runs: workdirs that kept snapshots, of one family and data set; finished or going on. The
        plane goes through the last snapshot of the first.
      out: folder to write to; made if it is not there.
      data_dir: where the data lie, if not where the first run found them.
      split: what the loss is measured on: "train", "validation" or "test" of the first run.
      directions: "pca", the plane nearest to all snapshots, or "random", filter-normalised.
      grid: points of a side.
      examples: images the loss is measured on.
      batch: images that are normalised together; where it is less than `examples`, padding blocks
        of plain nets are set from the first batch and are nearly the identity for the others.
      seed: of the choice of images and of random directions.
      show_progress: whether to draw a bar; None draws it on a terminal only.

    Returns:
      The content of trajectory.json: for each run its points (epoch, depths, x, y, loss of the net
      itself, distance from the plane) and growths, the grid of losses, the settings.

    Raises:
      UserError: for runs without snapshots or of different kinds, and settings out of range.
    """
    if directions not in DIRECTIONS:
        raise UserError(f"directions is {directions!r}; choose one of {', '.join(DIRECTIONS)}")
    if grid < 2:
        raise UserError(f"grid is {grid}; it takes the points of a side, at least 2")
    if seed < 0:
        raise UserError(f"seed is {seed}; it takes a whole number of at least 0")
    if not runs:
        raise UserError("no runs are given; name the workdir of at least one")
    loaded = [read_run(run, data_dir) for run in runs]
    check_comparable(loaded)
    settings = loaded[0].settings
    dataset = build.load_data(settings)
    if known := read_known(Workdir(loaded[0].workdir)):
        dataset = dataset.normalized_as(known)
    out = user_path(out)
    chosen = choose_examples(dataset, split, examples, batch, seed)
    depths = final_depths(loaded)
    _make_folder(out)  # Before the work that would be lost.
    network = build.make_network(settings, dataset.num_classes, dataset.image_shape[2], depths)
    network = network.clone(options=network.options._replace(dtype=jnp.float32), remat=False)
    pad = make_pad(network, chosen.images[0])
    snapshots = [snapshot for run in loaded for snapshot in run.snapshots]
    hidden = None if show_progress is None else not show_progress
    bar = tqdm(snapshots, desc="pad", unit="snapshot", disable=hidden)
    padded = [pad(snapshot.variables, snapshot.depths) for snapshot in bar]
    params = [variables["params"] for variables, _ in padded]
    center, is_pca = len(loaded[0].snapshots) - 1, directions == "pca"
    plane = principal_plane(params, center) if is_pca else random_plane(params, center, seed)
    x, y = grid_axes(plane.coordinates, grid, least=0.0 if is_pca else 1.0)
    loss = make_loss(network, padded[0][0]["batch_stats"], chosen)
    points = [
        {"epoch": snapshot.epoch, "depths": snapshot.depths}
        | {"x": place[0], "y": place[1], "loss": loss(tree), "distance": distance}
        for snapshot, tree, place, distance in zip(
            snapshots, params, plane.coordinates, plane.distances, strict=True
        )
    ]
    with tqdm(total=grid * grid, desc="loss", unit="point", disable=hidden) as bar:
        surface = loss_in_plane(loss, plane, x, y, bar.update)
    rest = iter(points)
    content = {
        "family": settings.model.family,
        "dataset": settings.data.name,
        "depths": depths,
        "runs": [
            {
                "label": label,
                "workdir": str(run.workdir),
                "mode": run.settings.mode,
                "policy": run.settings.growth.policy,
                "initializer": run.settings.growth.initializer,
                "seed": run.settings.seed,
                "finetune_epoch": run.finetune,
                "perturbed": run.perturbed,
                "points": [next(rest) for _ in run.snapshots],
                "growth": run.growth,
            }
            for run, label in zip(loaded, labels(loaded), strict=True)
        ],
        "plane": {
            "directions": directions,
            "center": f"last snapshot of {_tails(loaded)[0]}",
            "explained": plane.explained,
        },
        "grid": {"x": x, "y": y, "loss": surface},
        "settings": {
            "split": split,
            "examples": chosen.labels.size,
            "batch": chosen.labels.shape[1],
            "grid": grid,
            "normalization": "batch statistics",
        },
        "largest_change_by_padding": max(change for _, change in padded),
        "seed": seed,
        "device": describe_devices(),
        "versions": find_versions(),
    }
    # Tight: an equal aspect moves the panel after the layout has made room for its labels.
    files = [out / f"trajectory.{suffix}" for suffix in ("png", "svg")]
    save_figure(figure(content), *files, bbox_inches="tight", pad_inches=0.15)
    text = to_json(content, "trajectory", indent=1)
    replace_file(out / "trajectory.json", text.encode("ascii") + b"\n")
    return content


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise UserError(f"cannot write to {out} ({error.strerror}); choose another --out") from None


def read_run(workdir: str | os.PathLike[str], data_dir: str = "") -> Run:
    """Reads a run that is finished or going on; its data may lie in `data_dir` now.

    UserError where it is no run, kept fewer than two snapshots, or a file is damaged.
    """
    folder = Workdir(user_path(workdir))
    config = read_config(folder)
    files = snapshot_files(folder.snapshots)
    if len(files) < 2:
        kept = "one snapshot" if files else "no snapshots"
        raise UserError(
            f"the run in {folder.root} kept {kept} of its weights, and a path needs at least two;"
            " run it with --config.snapshots.every=4 (epochs), in another --workdir if it is"
            " finished"
        )
    if data_dir:
        config.setdefault("data", {})["dir"] = data_dir
    settings = build.resolve(config, to_read=True)
    snapshots = [read_snapshot(file) for file in files]
    last = snapshots[-1].epoch
    metrics = [line for line in read(folder.metrics) if line["epoch"] < last]
    result = read_result(folder.result) if folder.result.is_file() else {}
    if front := [line["depths"] for line in metrics if line.get("candidate") is not None]:
        # Its nets were trained by turns; the path is that of one, the recommended or the last.
        metrics = path_to(metrics, result.get("recommended") or max(front, key=sum))
        done = {0, *(line["epoch"] + 1 for line in metrics)}
        snapshots = [snapshot for snapshot in snapshots if snapshot.epoch in done]
    phases = [line["epoch"] for line in metrics if line.get("phase") == "finetune"]
    tuned = min(phases, default=None), result.get("perturbed", 0.0) if phases else 0.0
    return Run(folder.root, settings, snapshots, growth_events(metrics), *tuned)


def check_comparable(runs: Sequence[Run]) -> None:
    """Raises UserError where runs are not of one family, stem and data set; names the key."""
    first, *others = runs
    for run in others:
        ours, theirs = flatten(first.settings), flatten(run.settings)
        for key in SHARED_KEYS:
            if ours[key] != theirs[key]:
                raise UserError(
                    f"{first.workdir} and {run.workdir} cannot be drawn in one plane: {key} is"
                    f" {ours[key]!r} in the first, {theirs[key]!r} in the second; give runs of one"
                    " kind of network on one data set"
                )


def final_depths(runs: Sequence[Run]) -> tuple[int, ...]:
    """Finds the least depths that every snapshot of every run fits in."""
    depths = [snapshot.depths for run in runs for snapshot in run.snapshots]
    return tuple(max(stage) for stage in zip(*depths, strict=True))


def labels(runs: Sequence[Run]) -> list[str]:
    """Names each run by policy and initialiser, and by its folder where these are not enough."""
    names = [
        f"{run.settings.growth.policy}, {run.settings.growth.initializer}"
        if run.settings.mode == "grow"
        else "from scratch"
        for run in runs
    ]
    tails = _tails(runs)
    pairs = zip(names, tails, strict=True)
    return [name if names.count(name) == 1 else f"{name} ({tail})" for name, tail in pairs]


def _tails(runs: Sequence[Run]) -> list[str]:
    """The last parts of each run's path: as few as tell different ones apart."""
    paths = [run.workdir.resolve() for run in runs]
    for length in range(1, max(len(path.parts) for path in paths) + 1):
        tails = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(tails)) == len(set(paths)):
            break
    return tails
