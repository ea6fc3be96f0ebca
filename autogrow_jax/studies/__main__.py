"""The command line of studies: run what is missing, then write the table.

python -m autogrow_jax.studies --study=configs/studies/smoke.py --workdir=runs/smoke --workers=2
"""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import logging

from autogrow_jax.config_files import load_study
from autogrow_jax.errors import UserError
from autogrow_jax.flags import UsageError
from autogrow_jax.process import catch_sigterm, exit_status, keep_freed_memory, leave
from autogrow_jax.studies.cells import Cell, Entry, Folder, expand
from autogrow_jax.studies.devices import make_slots
from autogrow_jax.studies.options import Options, parse_arguments
from autogrow_jax.studies.progress import StudyProgress
from autogrow_jax.studies.records import collect
from autogrow_jax.studies.runner import run_cells, worker_command
from autogrow_jax.studies.study import Study
from autogrow_jax.studies.worker import run_cell, stop_with_parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program.

    Args:
      arguments: those after the program's name; by default those of the process.

    Returns:
      The exit status: 0; 1 where a cell failed, or for a mistake of the user; 2 for arguments that
      cannot be read; 130 after Ctrl-C and 143 after SIGTERM.
    """
    logging.set_verbosity(logging.ERROR)
    workdir = ""
    try:
        with catch_sigterm():
            given = list(sys.argv[1:] if arguments is None else arguments)
            options = parse_arguments(given)
            workdir = str(options.workdir)
            return _run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except BrokenPipeError:  # `--list | head`: whoever read has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt as stop:
        how = f"; the same command does what is missing in {workdir}" if workdir else ""
        print(f"{chr(10) if sys.stderr.isatty() else ''}stopped{how}", file=sys.stderr)
        return exit_status(stop)


def _run(options: Options) -> int:
    study = load_study(options.study)
    if not isinstance(study, Study):
        raise UserError(
            f"study file {options.study}: get_study() returned {type(study).__name__}, not an"
            " autogrow_jax.studies.Study"
        )
    cells, entries = expand(study, options.changes, options.seeds)
    if options.list:
        _list(cells, options.workdir)
        return 0
    if options.cell:
        return _run_one(cells, options)
    if not options.table:
        run_cells(
            cells,
            options.workdir,
            make_slots(options.workers),
            lambda cell: worker_command(options.of_worker, cell),
            StudyProgress(study.title),
        )
    return _report(study, entries, options)


def _list(cells: Sequence[Cell], workdir: Path) -> None:
    """A line for each cell, so that `wc -l` counts them; the index first, for `--cell`."""
    index = {cell.name: number for number, cell in enumerate(cells)}
    for number, cell in enumerate(cells):
        folder = Folder(workdir, cell)
        state = "done" if folder.is_done else "failed" if folder.why_failed() else "missing"
        after = f"  (after {index[cell.found_by]})" if cell.found_by else ""
        print(f"{number:>4}  {state:<7}  {cell.label}  {cell.name}{after}")
    waiting = sum(1 for cell in cells if cell.found_by)
    if waiting:
        first = len(cells) - waiting
        print(
            f"cells {first} to {len(cells) - 1} train from scratch what earlier ones find: as a job"
            f" array, run 0 to {first - 1} first",
            file=sys.stderr,
        )


def _run_one(cells: Sequence[Cell], options: Options) -> int:
    if options.parent is not None:
        stop_with_parent(options.parent)
    cell = _find(cells, options.cell)
    keep_freed_memory()
    finder = next((other for other in cells if other.name == cell.found_by), None)
    try:
        run_cell(cell, options.workdir, finder)
    except UserError:
        raise
    except Exception as error:  # Its traceback is printed, its reason in the cell's folder.
        print(f"error: {cell.label}: {error}", file=sys.stderr)
        return 1
    return 0


def _find(cells: Sequence[Cell], wanted: str) -> Cell:
    """The cell of a name, or of a place in the list."""
    for number, cell in enumerate(cells):
        if wanted in (str(number), cell.name):
            return cell
    raise UserError(
        f"--cell is {wanted}; the cells are 0 to {len(cells) - 1}, and have the names that --list"
        " shows"
    )


def _report(study: Study, entries: Sequence[Entry], options: Options) -> int:
    # Here, not at the top: a cell's own process draws nothing.
    from autogrow_jax.studies.figures import draw_figures
    from autogrow_jax.studies.tables import format_text, write_tables

    command = shlex.join(["python", "-m", "autogrow_jax.studies", *options.shown])
    tables = collect(entries, options.workdir)
    print(format_text(study.title, tables, command=command))
    paths = write_tables(study.title, tables, options.workdir, command=command)
    paths += draw_figures(study.title, tables, options.workdir)
    for path in paths:
        print(f"wrote {path}")
    failed = {r.cell.name: r for t in tables for r in t.records if r.state == "failed"}
    for record in failed.values():
        folder = Folder(options.workdir, record.cell)
        print(f"error: {record.cell.label} failed: {record.error}", file=sys.stderr)
        if folder.log.exists():
            print(f"  its output: {folder.log}", file=sys.stderr)
    if failed:
        print("the same command tries again what failed", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    leave(main())
