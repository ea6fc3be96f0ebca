"""`autogrow evaluate`: the accuracy of a run's net; `config.mode=evaluate` in fewer words."""

import argparse
import csv
import sys
from collections.abc import Sequence
from typing import Any

from autogrow_jax.cli.predict import add_output, find_format, open_output, register_own
from autogrow_jax.command_line import Parser, add_config, run_command
from autogrow_jax.data.load import KNOWN_SETS
from autogrow_jax.process import process_start, user_path
from autogrow_jax.reporting import ConsoleReporter, format_result
from autogrow_jax.reporting.metrics import Line
from autogrow_jax.reporting.numbers import format_depths
from autogrow_jax.reporting.workdir import to_json
from autogrow_jax.settings import nest
from autogrow_jax.settings_files import take_changes
from autogrow_jax.training import run

# Of CSV; but for the first the names are those of result.json.
_COLUMNS = ("workdir", "family", "dataset", "depths", "test_examples", "test_accuracy", "test_loss",
    "commonest_class_accuracy", "num_params", "seed")  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    return run_command(_parse, _evaluate, arguments)


def make_parser() -> Parser:
    """The options of the command."""
    parser = Parser(
        "autogrow evaluate",
        "Evaluates the newest checkpoint of a run on its own test images, or on the test part of"
        " another set, whose classes are matched by name.",
        more="--config.KEY=VALUE",
        usage="%(prog)s --workdir=DIR [--data=NAME] [--data-dir=DIR] [--config=FILE]"
        " [--format={table,csv,json}] [--output=FILE] [--config.KEY=VALUE ...]",
        epilog="example: autogrow evaluate --workdir=runs/photos --data=others/ --format=json",
    )
    data = "a folder of images, an .npz file, or any name that config.data.name takes"
    parser.add_argument("--workdir", metavar="DIR", required=True, help="folder of the run")
    parser.add_argument("--data", metavar="NAME", help=f"{data} (default: the run's own data)")
    parser.add_argument("--data-dir", metavar="DIR", help="where the files of a set lie")
    add_config(parser)
    add_output(parser, "the result")
    return parser


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    rest, changes = take_changes(arguments)
    given = make_parser().read(rest)
    given.changes = changes
    return given


def _evaluate(given: argparse.Namespace) -> None:
    register_own(given)
    keys: dict[str, Any] = {"mode": "evaluate"}
    if given.data:
        is_name = ":" in given.data or given.data in KNOWN_SETS
        is_folder = not is_name and user_path(given.data).is_dir()
        keys["data.name"] = f"folder:{given.data}" if is_folder else given.data
    if given.data_dir:
        keys["data.dir"] = given.data_dir
    config, kind = nest(given.changes | keys), given.format or find_format(given.output)
    if kind == "table" and given.output is None:
        run(config, given.workdir, started=process_start())
        return
    with open_output(given.output) as stream:
        result = run(config, given.workdir, reporter=_Aside(), started=process_start()).to_dict()
        if kind == "json":
            print(to_json(result, "result", indent=2), file=stream)
        elif kind == "csv":
            result |= {"workdir": given.workdir, "depths": format_depths(result["depths"])}
            row = [result.get(name, "") for name in _COLUMNS]
            csv.writer(stream, lineterminator="\n").writerows([_COLUMNS, row])
        else:
            print(format_result(result), file=stream)
    if given.output:
        print(f"wrote {given.output}", file=sys.stderr)


class _Aside(ConsoleReporter):
    """Says on stderr, out of the way of the result, what it was measured on."""

    def __init__(self) -> None:
        super().__init__(stdout=sys.stderr)

    def end_run(self, result: Line | None = None) -> None:
        self.close()
