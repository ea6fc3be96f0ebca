"""The arguments of `python -m autogrow_jax.studies`."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autogrow_jax.command_line import Parser, UsageError
from autogrow_jax.settings_files import STUDIES, split_name, take_changes
from autogrow_jax.studies.study import check_seeds


@dataclasses.dataclass(frozen=True)
class Options:
    """What the user asked for.

    Attributes:
      study: path of a study file, perhaps with ":ARGUMENT" for its `get_study`.
      workdir: of the study.
      workers: processes at the same time.
      seeds: instead of the study's own; empty for those.
      list: show the cells and end.
      cell: place in the list or name of the one cell to run, "" for all.
      table: make the table of what has finished and run nothing.
      parent: the pipe by which a worker notices the end of the process that started it.
      changes: {"a.b": value} laid over every cell's config.
      of_worker: the arguments that a worker needs to find the same cells.
      shown: those by which somebody else makes the same table.
    """

    study: str
    workdir: Path
    workers: int
    seeds: tuple[int, ...]
    list: bool
    cell: str
    table: bool
    parent: int | None
    changes: dict[str, Any]
    of_worker: tuple[str, ...]
    shown: tuple[str, ...]


def parse_arguments(arguments: Sequence[str]) -> Options:
    """Reads the arguments of the program, without its name.

    Raises:
      UsageError: an unknown option or config key, with the nearest known one; a lacking value.
      SystemExit: after `--help`, which is printed.
    """
    rest, changes = take_changes(arguments)
    known = _make_parser().read(rest)
    if not known.study:
        names = ", ".join(sorted(path.name for path in STUDIES.glob("[!_]*.py")))
        raise UsageError(f"--study=FILE is missing; in {STUDIES} there are: {names}")
    seeds = check_seeds(known.seeds) if known.seeds else ()
    name = Path(split_name(known.study)[0]).stem
    workdir = Path(known.workdir or Path("runs") / name).expanduser()
    of_config = tuple(f"--config.{key}={_as_text(value)}" for key, value in changes.items())
    chosen = (f"--seeds={','.join(map(str, seeds))}",) if seeds else ()
    base = (f"--study={known.study}", f"--workdir={workdir}", *chosen, *of_config)
    workers = (f"--workers={known.workers}",) if known.workers != 1 else ()
    return Options(
        known.study,
        workdir,
        known.workers,
        seeds,
        known.list,
        known.cell,
        known.table,
        known.parent,
        changes,
        base,
        (*base, *workers),
    )


def _as_text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _seeds(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def _make_parser() -> Parser:
    parser = Parser(
        "autogrow_jax.studies",
        "Runs what is missing of a study, each run in a process of its own, and writes its table"
        " (text, Markdown, CSV, JSON) and figures. The same command again goes on.",
        more="--config.KEY=VALUE",
        usage="%(prog)s --study=FILE [--workdir=DIR] [--workers=N] [--config.KEY=VALUE ...]",
    )
    parser.add_argument(
        "--study",
        metavar="FILE",
        default="",
        help=f"a Python file with get_study(); those in {STUDIES} are found from any folder",
    )
    parser.add_argument(
        "--workdir", metavar="DIR", help="folder of the study (default: runs/STUDY-NAME)"
    )
    parser.add_argument(
        "--workers",
        metavar="N",
        type=int,
        default=1,
        help="processes at the same time; several share the GPUs by turns, or else the cores",
    )
    parser.add_argument(
        "--seeds", metavar="0,1,2", type=_seeds, default=(), help="instead of the study's own"
    )
    parser.add_argument(
        "--list", action="store_true", help="show the cells, a line each, and run nothing"
    )
    parser.add_argument(
        "--cell", metavar="I", default="", help="run one cell of the list, as in a job array"
    )
    parser.add_argument(
        "--table", action="store_true", help="make the table of what has finished, run nothing"
    )
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)
    return parser
