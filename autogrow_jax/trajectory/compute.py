"""From workdirs to a picture: read, pad, find the plane, evaluate the grid, write."""

import io
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from autogrow_jax import build
from autogrow_jax.errors import UserError
from autogrow_jax.models import Network
from autogrow_jax.reporting.files import replace_file, to_json
from autogrow_jax.training.ending import describe_devices, find_versions
from autogrow_jax.trajectory.draw import figure
from autogrow_jax.trajectory.pad import make_pad
from autogrow_jax.trajectory.plane import Plane, principal_plane, random_plane
from autogrow_jax.trajectory.runs import (
    Run,
    check_comparable,
    final_depths,
    labels,
    read_run,
)
from autogrow_jax.trajectory.surface import (
    choose_examples,
    grid_axes,
    loss_in_plane,
    loss_of_each,
)

DIRECTIONS = ("pca", "random")


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
    if not runs:
        raise UserError("no runs are given; name the workdir of at least one")
    loaded = [read_run(run, data_dir) for run in runs]
    check_comparable(loaded)
    settings = loaded[0].settings
    dataset = build.load_data(settings)
    out = Path(out).expanduser()
    chosen = choose_examples(dataset, split, examples, batch, seed)
    depths = final_depths(loaded)
    _make_folder(out)  # Before the work that would be lost.
    network = _in_float32(
        build.make_network(settings, dataset.num_classes, dataset.image_shape[2], depths)
    )
    pad = make_pad(network, chosen.images[0])
    snapshots = [snapshot for run in loaded for snapshot in run.snapshots]
    hidden = None if show_progress is None else not show_progress
    padded = [
        pad(snapshot.variables, snapshot.depths)
        for snapshot in tqdm(snapshots, desc="pad", unit="snapshot", disable=hidden)
    ]
    points = [variables["params"] for variables, _ in padded]
    stats = padded[0][0]["batch_stats"]
    center = len(loaded[0].snapshots) - 1
    if directions == "pca":
        plane = principal_plane(points, center)
    else:
        plane = random_plane(points, center, seed)
    x, y = grid_axes(plane.coordinates, grid, least=0.0 if directions == "pca" else 1.0)
    losses = loss_of_each(network, points, stats, chosen)
    with tqdm(total=grid * grid, desc="loss", unit="point", disable=hidden) as bar:
        surface = loss_in_plane(network, plane, stats, chosen, x, y, bar.update)
    content = {
        "family": settings.model.family,
        "dataset": settings.data.name,
        "depths": depths,
        "runs": _describe_runs(loaded, plane, losses),
        "plane": {
            "directions": directions,
            "center": f"last snapshot of {loaded[0].workdir.resolve().name}",
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
    drawing = figure(content)
    for name in ("png", "svg"):
        buffer = io.BytesIO()
        # Tight: an equal aspect moves the panel after the layout has made room for its labels.
        drawing.savefig(buffer, format=name, bbox_inches="tight", pad_inches=0.15)
        replace_file(out / f"trajectory.{name}", buffer.getvalue())
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


def _in_float32(network: Network) -> Network:
    return network.clone(options=network.options._replace(dtype=jnp.float32), remat=False)


def _describe_runs(runs: list[Run], plane: Plane, losses: np.ndarray) -> list[dict[str, Any]]:
    """What trajectory.json says of each run."""
    described, first = [], 0
    for run, label in zip(runs, labels(runs), strict=True):
        rows = slice(first, first + len(run.snapshots))
        first = rows.stop
        where = plane.coordinates[rows]
        described.append(
            {
                "label": label,
                "workdir": str(run.workdir),
                "mode": run.settings.mode,
                "policy": run.settings.growth.policy,
                "initializer": run.settings.growth.initializer,
                "seed": run.settings.seed,
                "finetune_epoch": run.finetune,
                "points": [
                    {
                        "epoch": snapshot.epoch,
                        "depths": snapshot.depths,
                        "x": place[0],
                        "y": place[1],
                        "loss": loss,
                        "distance": distance,
                    }
                    for snapshot, place, loss, distance in zip(
                        run.snapshots, where, losses[rows], plane.distances[rows], strict=True
                    )
                ],
                "growth": run.growth,
            }
        )
    return described
