"""`python -m autogrow_jax.trajectory --runs A B C --out DIR`: see the package."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from autogrow_jax.command_line import Parser, leave, run_command
from autogrow_jax.reporting.numbers import format_depths
from autogrow_jax.trajectory.compute import DIRECTIONS, trajectory
from autogrow_jax.trajectory.plane import SPLITS


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command on `argv`, by default the process's; returns its exit status."""
    parser = Parser(
        "autogrow_jax.trajectory",
        "Draws the paths that the weights of runs took over the loss, from the snapshots they kept"
        " (--config.snapshots.every).",
    )
    add = parser.add_argument
    add("--runs", nargs="+", required=True, metavar="WORKDIR", help="runs of one family and set")
    add("--out", required=True, help="folder for trajectory.png, .svg and .json")
    add("--data-dir", default="", help="where the data lie, if they were moved")
    add("--split", choices=SPLITS, default="train", help="images of the loss")
    add("--directions", choices=DIRECTIONS, default="pca", help="of the plane")
    add("--grid", type=int, default=25, help="points of a side")
    add("--examples", type=int, default=1000, help="images the loss is measured on")
    add("--batch", type=int, default=1000, help="images normalised together")
    add("--seed", type=int, default=0, help="of images and random directions")
    return run_command(parser.read, _draw, argv)


def _draw(given: argparse.Namespace) -> None:
    for run in trajectory(**vars(given))["runs"]:
        last = run["points"][-1]
        farthest = max(point["distance"] for point in run["points"])
        print(
            f"{run['label']}: {len(run['points'])} snapshots, {len(run['growth'])} growths to"
            f" {format_depths(last['depths'])}, loss {last['loss']:.4g} at the end, at most"
            f" {farthest:.3g} from the plane"
        )
    for kind in ("png", "svg", "json"):
        print(f"wrote {Path(given.out) / f'trajectory.{kind}'}")


if __name__ == "__main__":
    leave(main())
