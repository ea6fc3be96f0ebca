"""`autogrow evaluate`: the accuracy of a run's net; `config.mode=evaluate` in fewer words."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autogrow_jax.command_line import Parser, run_command
from autogrow_jax.process import find_start
from autogrow_jax.settings import nest
from autogrow_jax.settings_files import take_changes
from autogrow_jax.training import run


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
        usage="%(prog)s --workdir=DIR [--data=NAME] [--data-dir=DIR] [--config.KEY=VALUE ...]",
    )
    data = "a folder of images, an .npz file, or any name that config.data.name takes"
    parser.add_argument("--workdir", metavar="DIR", required=True, help="folder of the run")
    parser.add_argument("--data", metavar="NAME", help=f"{data} (default: the run's own data)")
    parser.add_argument("--data-dir", metavar="DIR", help="where the files of a set lie")
    return parser


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    rest, changes = take_changes(arguments)
    given = make_parser().read(rest)
    given.changes = changes
    return given


def _evaluate(given: argparse.Namespace) -> None:
    keys: dict[str, Any] = {"mode": "evaluate"}
    if given.data:
        is_folder = ":" not in given.data and Path(given.data).expanduser().is_dir()
        keys["data.name"] = f"folder:{given.data}" if is_folder else given.data
    if given.data_dir:
        keys["data.dir"] = given.data_dir
    run(nest(given.changes | keys), given.workdir, started=find_start())
