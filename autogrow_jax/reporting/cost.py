"""`python -m autogrow_jax.reporting.cost`: print what a network of given depths costs."""

import argparse
import re
import sys
from collections.abc import Sequence

from autogrow_jax.command_line import Parser, run_command
from autogrow_jax.errors import UserError
from autogrow_jax.models import build_network, estimate_cost, piece_costs
from autogrow_jax.reporting.numbers import format_depths


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command on `argv`, by default the process's; returns its exit status."""
    parser = Parser(
        "autogrow_jax.reporting.cost",
        "Prints the parameters of a network and the multiply-adds of evaluating one image: those"
        " of convolutions and the linear layer, padding included.",
    )
    parser.add_argument("--family", required=True, help="such as basic3 or plain4")
    parser.add_argument("--depths", required=True, help="blocks in each stage, such as 42-42-42")
    parser.add_argument("--image", default="32x32x3", help="HxWxC (default: %(default)s)")
    parser.add_argument("--num_classes", type=int, default=10, help="(default: %(default)s)")
    parser.add_argument("--stem", default="small", help="small (the default) or imagenet")
    return run_command(parser.read, _print_cost, argv)


def _print_cost(given: argparse.Namespace) -> None:
    shape = _numbers("image", given.image, "[0-9]+x[0-9]+x[0-9]+", "32x32x3")
    depths = _numbers("depths", given.depths, "[0-9]+([-,][0-9]+)*", "4-4-4")
    network = build_network(given.family, depths, given.num_classes, shape[-1], stem=given.stem)
    pieces = piece_costs(network, shape)
    rows = [("stem and head", "", pieces.stem_and_head)]
    rows += [(f"stage {i}", str(d), pieces.stage(i, d)) for i, d in enumerate(depths)]
    rows += [("total", str(sum(depths)), estimate_cost(network, shape))]
    classes = f"{given.num_classes} classes"
    print(f"{given.family} {format_depths(depths)}, images {given.image}, {classes}")
    print(f"{'':15}{'blocks':>8}{'parameters':>16}{'multiply-adds':>20}")
    for name, blocks, cost in rows:
        print(f"  {name:<13}{blocks:>8}{cost.num_params:>16,}{cost.macs:>20,}")


def _numbers(name: str, text: str, pattern: str, example: str) -> tuple[int, ...]:
    if not re.fullmatch(pattern, text):
        raise UserError(f"--{name} is {text!r}; give whole numbers such as --{name}={example}")
    return tuple(map(int, re.findall("[0-9]+", text)))


if __name__ == "__main__":
    sys.exit(main())
