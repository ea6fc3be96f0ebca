"""The command line of studies: run what is missing, then write the table.

python -m autogrow_jax.studies --study=configs/studies/smoke.py --workdir=runs/smoke --workers=2
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from autogrow_jax.children import stop_with_parent
from autogrow_jax.command_line import Parser, UsageError, leave, run_command
from autogrow_jax.errors import UserError
from autogrow_jax.process import process_start, user_path
from autogrow_jax.settings_files import STUDIES, load_study, split_name, take_changes
from autogrow_jax.studies import Study, check_seeds
from autogrow_jax.studies.cells import Cell, Folder, expand
from autogrow_jax.studies.engines import ENGINES, as_jobs, as_processes
from autogrow_jax.studies.records import Table, collect
from autogrow_jax.studies.runner import run_cell, run_cells


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program as `run_command` does; its status is 1 where a cell failed too."""
    return run_command(
        parse_arguments,
        _run,
        arguments,
        lambda options: f"the same command does what is missing in {options.workdir}",
    )


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Reads the arguments of the program, without its name.

    Returns:
      The options of `--help`; `changes`, {"a.b": value} to be laid over every cell's config; and
      `of_worker`, the arguments with which a worker finds the same cells.

    Raises:
      UsageError: an unknown option or config key, with the nearest known one; a lacking value.
    """
    given, changes = take_changes(arguments)
    options = make_parser().read(given)
    if not options.study:
        names = ", ".join(sorted(path.name for path in STUDIES.glob("[!_]*.py")))
        raise UsageError(f"--study=FILE is missing; in {STUDIES} there are: {names}")
    workdir = Path(options.workdir or Path("runs") / Path(split_name(options.study)[0]).stem)
    options.workdir, options.changes = user_path(workdir), changes
    kept: dict[str, Any] = {"study": options.study, "workdir": options.workdir}
    if options.seeds:
        kept["seeds"] = check_seeds(options.seeds)
    kept |= {f"config.{key}": value for key, value in changes.items()}
    options.of_worker = [
        f"--{key}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
        for key, value in kept.items()
    ]
    return options


def _run(options: argparse.Namespace) -> int:
    study = load_study(options.study)
    if not isinstance(study, Study):
        raise UserError(
            f"study file {options.study}: get_study() returned {type(study).__name__}, not an"
            " autogrow_jax.studies.Study"
        )
    cells, entries = expand(study, options.changes, options.seeds)
    if options.list:
        return _list(cells, options.workdir)
    if options.cell is not None:
        return _run_one(cells, options)
    if not options.table:
        # By name: a study file that is edited meanwhile may number its cells otherwise.
        python = [sys.executable, "-m", "autogrow_jax.studies", *options.of_worker]
        commands = {cell.name: [*python, f"--cell={cell.name}"] for cell in cells}
        if options.engine:
            slots = as_jobs(options.engine, options.workdir, options.job, options.max_jobs)
        else:
            slots = as_processes(options.workers)
        run_cells(cells, options.workdir, slots, commands, study.title)
    return _report(study.title, collect(entries, options.workdir), options)


def _list(cells: Sequence[Cell], workdir: Path) -> int:
    """A line for each cell, so that `wc -l` counts them; the index first, for `--cell`."""
    index = {cell.name: number for number, cell in enumerate(cells)}
    for number, cell in enumerate(cells):
        after = f"  (after {index[cell.found_by]})" if cell.found_by else ""
        state = Folder(workdir, cell).state
        print(f"{number:>4}  {state:<7}  {cell.label}  {cell.name}{after}")
    first = sum(not cell.found_by for cell in cells)
    if first < len(cells):
        print(
            f"cells {first} to {len(cells) - 1} train what earlier ones find, from scratch or on:"
            f" as a job array, run 0 to {first - 1} first, then by what each is after",
            file=sys.stderr,
        )
    return 0


def _run_one(cells: Sequence[Cell], options: argparse.Namespace) -> int:
    is_worker = options.parent is not None
    if is_worker:
        stop_with_parent(options.parent)
    wanted = [c for i, c in enumerate(cells) if options.cell in (str(i), c.name)]
    if not wanted:
        raise UserError(
            f"--cell is {options.cell!r}; the cells are 0 to {len(cells) - 1}, and have the names"
            " that --list shows"
        )
    try:
        run_cell(wanted[0], options.workdir, started=process_start(), waits=is_worker)
    except UserError:
        raise
    except Exception as error:  # Its traceback is printed, its reason in the cell's folder.
        print(f"error: {wanted[0].label}: {error}", file=sys.stderr)
        return 1
    return 0


def _report(title: str, tables: Sequence[Table], options: argparse.Namespace) -> int:
    # Here, not at the top: a cell's own process draws nothing.
    from autogrow_jax.studies.figures import draw_figures
    from autogrow_jax.studies.tables import format_text, write_tables

    workers = (f"--workers={options.workers}",) if options.workers != 1 else ()
    command = shlex.join(["python", "-m", "autogrow_jax.studies", *options.of_worker, *workers])
    print(format_text(title, tables, command=command))
    paths = write_tables(title, tables, options.workdir, command=command)
    for path in (*paths, *draw_figures(title, tables, options.workdir)):
        print(f"wrote {path}")
    failed = {r.cell.name: r for t in tables for r in t.records if r.state == "failed"}
    for record in failed.values():
        print(f"error: {record.cell.label} failed: {record.error}", file=sys.stderr)
        log = Folder(options.workdir, record.cell).log
        if log.exists():
            print(f"  its output: {log}", file=sys.stderr)
    if not all(Folder(options.workdir, record.cell).is_done for record in failed.values()):
        print("the same command tries again what failed", file=sys.stderr)
    return 1 if failed else 0


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r}; it takes whole numbers with commas between, such as 0,1,2"
        ) from None


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; it takes a whole number of at least 1")
    return int(text)


def _parameters(text: str) -> dict[str, Any]:
    with suppress(ValueError):
        if isinstance(given := json.loads(text), dict):
            return given
    raise argparse.ArgumentTypeError(f"{text}; it takes a JSON object")


def make_parser() -> Parser:
    """The options of the command, less those of the config."""
    parser = Parser(
        "autogrow studies",
        "Runs what is missing of a study, each run in a process of its own, and writes its table"
        " (text, Markdown, CSV, JSON) and figures. The same command again goes on.",
        more="--config.KEY=VALUE",
        usage="%(prog)s --study=FILE [--workdir=DIR] [--workers=N] [--config.KEY=VALUE ...]",
    )
    add = parser.add_argument
    files = f"a Python file with get_study(); those in {STUDIES} are found from any folder"
    add("--study", metavar="FILE", default="", help=files)
    add("--workdir", metavar="DIR", help="folder of the study (default: runs/STUDY-NAME)")
    processes = "processes at the same time; several share the GPUs by turns, or else the cores"
    add("--workers", metavar="N", type=int, default=1, help=processes)
    engines = "run each cell as a job of submitit, on SLURM or on this machine"
    add("--engine", metavar="local|slurm", choices=("", *ENGINES), default="", help=engines)
    jobs = "jobs that wait or run at the same time, with --engine"
    add("--max-jobs", metavar="N", type=_at_least_one, default=8, help=jobs)
    job = 'parameters of submitit, such as \'{"slurm_partition": "gpu", "gpus_per_node": 1}\''
    add("--job", metavar="JSON", type=_parameters, default={}, help=job)
    add("--seeds", metavar="0,1,2", type=_seeds, default=(), help="instead of the study's own")
    add("--list", action="store_true", help="show the cells, a line each, and run nothing")
    add("--cell", metavar="I", help="run one cell of the list, as in a job array")
    add("--table", action="store_true", help="make the table of what has finished, run nothing")
    add("--parent", type=int, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    leave(main())
