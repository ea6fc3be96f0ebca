"""`python -m autogrow_jax.reporting WORKDIR`: redraw the plots of a run and print its result."""

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autogrow_jax.command_line import Parser, run_command
from autogrow_jax.errors import UserError
from autogrow_jax.reporting.console import EPOCH_HEADER, format_epoch
from autogrow_jax.reporting.metrics import read
from autogrow_jax.reporting.plots import draw_growth
from autogrow_jax.reporting.result import format_result, read_result, validation_label
from autogrow_jax.reporting.workdir import Workdir, read_config


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command on `argv`, by default the process's; returns its exit status."""
    parser = Parser(
        "autogrow_jax.reporting",
        "Redraws plots/growth.png from metrics.jsonl and prints result.json.",
    )
    parser.add_argument("workdir", type=Path, help="the workdir of a run, finished or going on")
    parser.add_argument("--svg", action="store_true", help="write plots/growth.svg too")
    return run_command(parser.read, lambda given: _report(given.workdir, given.svg), argv)


def _report(workdir: Path, svg: bool) -> None:
    run = Workdir(workdir)
    metrics = read(run.metrics)
    finished = run.result.is_file()
    result = read_result(run.result) if finished else {}
    title, validation = _names(run, result)
    paths = draw_growth(
        metrics,
        run.picture,
        title=title,
        validation_name=validation,
        test_accuracy=result.get("test_accuracy"),
        svg=svg,
    )
    if finished:
        print(format_result(result))
    else:
        accuracies = [line.get("validation_accuracy") for line in metrics]
        best = max((value for value in accuracies if value is not None), default=float("nan"))
        print(f"{title}: the run has not finished; its last epoch:")
        print(EPOCH_HEADER)
        print(format_epoch(metrics[-1], best))
    for path in paths:
        print(f"wrote {path}")


def _names(workdir: Workdir, result: dict[str, Any]) -> tuple[str, str]:
    """The title and the name of the validation images, from the result or else the config."""
    family, dataset = result.get("family"), result.get("dataset")
    validation = result.get("validation")
    if not result:
        # The names are a nicety: a run with a broken config.json can still be drawn.
        with contextlib.suppress(UserError, KeyError, TypeError):
            config = read_config(workdir)
            family, dataset = config["model"]["family"], config["data"]["name"]
            validation = config["data"]["validation"]
    title = f"{family} on {dataset}" if family and dataset else workdir.root.resolve().name
    return title, validation_label(validation, result.get("validation_examples"))


if __name__ == "__main__":
    sys.exit(main())
