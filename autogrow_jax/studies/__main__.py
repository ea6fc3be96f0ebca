"""The command line of studies: run what is missing, then write the table.

python -m autogrow_jax.studies --study=configs/studies/smoke.py --workdir=runs/smoke --workers=2
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from autogrow_jax.command_line import run_command
from autogrow_jax.errors import UserError
from autogrow_jax.process import keep_freed_memory, leave
from autogrow_jax.settings_files import load_study
from autogrow_jax.studies.cells import Cell, Entry, Folder, expand
from autogrow_jax.studies.options import Options, parse_arguments
from autogrow_jax.studies.progress import StudyProgress
from autogrow_jax.studies.records import collect
from autogrow_jax.studies.runner import (
    make_slots,
    run_cell,
    run_cells,
    stop_with_parent,
    worker_command,
)
from autogrow_jax.studies.study import Study


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program.

    Args:
      arguments: those after the program's name; by default those of the process.

    Returns:
      The exit status, see `run_command`; 1 where a cell failed too.
    """
    return run_command(
        parse_arguments,
        _run,
        arguments,
        lambda options: f"the same command does what is missing in {options.workdir}",
    )


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
