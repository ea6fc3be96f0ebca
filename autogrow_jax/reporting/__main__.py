"""`python -m autogrow_jax.reporting WORKDIR`: redraw a run's plots and report, print its result."""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autogrow_jax.command_line import Parser, UsageError, add_config, run_command
from autogrow_jax.errors import UserError
from autogrow_jax.process import user_path
from autogrow_jax.reporting.console import EPOCH_HEADER, format_epoch
from autogrow_jax.reporting.metrics import best_accuracy, read
from autogrow_jax.reporting.plots import draw_growth
from autogrow_jax.reporting.result import format_result, read_result, validation_label
from autogrow_jax.reporting.workdir import Workdir, read_config


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    return run_command(_parse, _report, arguments)


def make_parser() -> Parser:
    """The options of the command."""
    parser = Parser(
        "autogrow report",
        "Draws a run's report (report.html) and picture (plots/growth.png) again and prints its"
        " result.",
        usage="%(prog)s DIR [--svg] [--config=FILE]",
        epilog="example: autogrow report runs/photos",
    )
    where = "folder of the run, finished or going on; --workdir=DIR says the same"
    parser.add_argument("folder", metavar="DIR", type=Path, nargs="?", help=where)
    parser.add_argument("--workdir", metavar="DIR", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--svg", action="store_true", help="write plots/growth.svg too")
    add_config(parser)
    return parser


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    given = make_parser().read(arguments)
    named = [folder for folder in (given.folder, given.workdir) if folder is not None]
    if len(named) != 1:
        count = "two folders are" if named else "no folder is"
        raise UsageError(f"{count} given; name that of a run, as autogrow report runs/photos does")
    given.workdir = user_path(*named)
    return given


def _report(given: argparse.Namespace) -> None:
    workdir = Workdir(given.workdir)
    metrics = read(workdir.metrics)
    result: dict[str, Any] = {}
    try:
        result = read_result(workdir.result) if workdir.result.is_file() else {}
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
    told = dict(result)
    if not result:
        # The names are a nicety: a run with a broken config.json can still be drawn.
        with contextlib.suppress(UserError, KeyError, TypeError):
            config = read_config(workdir)
            told["family"], told["dataset"] = config["model"]["family"], config["data"]["name"]
            told["validation"] = config["data"]["validation"]
    title = workdir.root.resolve().name
    if told.get("family") and told.get("dataset"):
        title = f"{told['family']} on {told['dataset']}"
    paths = draw_growth(
        metrics,
        workdir.picture,
        title=title,
        validation_name=validation_label(told.get("validation"), told.get("validation_examples")),
        test_accuracy=told.get("test_accuracy"),
        front=told.get("front") or (),
        recommended=told.get("recommended") or (),
        svg=given.svg,
    )
    if result:
        print(format_result(result))
    else:
        print(f"{title}: the run has not finished; its last epoch:")
        print(f"{EPOCH_HEADER}\n{format_epoch(metrics[-1], best_accuracy(metrics))}")
    # Here, not at the top: JAX counts what nets cost and crops sample images. Not on a GPU, of
    # which a run that goes on may need all.
    import jax

    from autogrow_jax.report.page import write_report

    jax.config.update("jax_platforms", "cpu")
    for path in (*paths, write_report(workdir.root, config=given.config or "")):
        print(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(main())
