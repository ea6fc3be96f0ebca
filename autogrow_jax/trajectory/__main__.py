"""`python -m autogrow_jax.trajectory --runs A B C --out DIR`: see the package."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from autogrow_jax.command_line import Parser, run_command
from autogrow_jax.process import leave
from autogrow_jax.reporting.result import format_depths
from autogrow_jax.trajectory.compute import DIRECTIONS, trajectory
from autogrow_jax.trajectory.surface import SPLITS


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
      argv: the arguments; by default those of the process.

    Returns:
      The exit status, see `run_command`.
    """
    return run_command(_make_parser().read, _run, argv)


def _make_parser() -> Parser:
    parser = Parser(
        "autogrow_jax.trajectory",
        "Draws the paths that the weights of runs took over the loss, from the snapshots they kept"
        " (--config.snapshots.every).",
    )
    parser.add_argument(
        "--runs", nargs="+", required=True, metavar="WORKDIR", help="runs of one family and set"
    )
    parser.add_argument("--out", required=True, help="folder for trajectory.png, .svg and .json")
    parser.add_argument("--data-dir", default="", help="where the data lie, if they were moved")
    parser.add_argument("--split", choices=SPLITS, default="train", help="images of the loss")
    parser.add_argument("--directions", choices=DIRECTIONS, default="pca", help="of the plane")
    parser.add_argument("--grid", type=int, default=25, help="points of a side")
    parser.add_argument("--examples", type=int, default=1000, help="images the loss is measured on")
    parser.add_argument("--batch", type=int, default=1000, help="images normalised together")
    parser.add_argument("--seed", type=int, default=0, help="of images and random directions")
    return parser


def _run(given: argparse.Namespace) -> None:
    arguments = vars(given)
    out = arguments.pop("out")
    content = trajectory(arguments.pop("runs"), out, **arguments)
    for run in content["runs"]:
        last = run["points"][-1]
        farthest = max(point["distance"] for point in run["points"])
        print(
            f"{run['label']}: {len(run['points'])} snapshots, {len(run['growth'])} growths to"
            f" {format_depths(last['depths'])}, loss {last['loss']:.4g} at the end, at most"
            f" {farthest:.3g} from the plane"
        )
    for kind in ("png", "svg", "json"):
        print(f"wrote {Path(out) / f'trajectory.{kind}'}")


if __name__ == "__main__":
    leave(main())
