"""The cells of a study: one run each, in a folder of its own whose name says what it is.

A cell's name ends with a hash of all it computes with, so that the same run in two sections is one
cell, and a study file that was changed finds what is still valid of an earlier start.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from autogrow_jax.build import resolve
from autogrow_jax.errors import UserError
from autogrow_jax.reporting import Workdir, read_result, replace_file
from autogrow_jax.reporting.workdir import read_config
from autogrow_jax.settings import all_keys, differences, flatten, nest
from autogrow_jax.settings_files import load_config
from autogrow_jax.studies import Row, Section, Study

# "missing": not run yet, or still running.
State = Literal["done", "failed", "missing"]
# What a run in a study need not leave behind; a study file or the command line may say otherwise.
_QUIET = {
    **{"log.progress": False, "log.tensorboard": False, "log.report": False},
    "checkpoint.keep": 1,
}
# How long runs take: what a trial makes short.
_LENGTHS = ("finetune.epochs", "finetune.total_epochs", "growth.max_epochs")
# What tables call rows by, even where a config file says it.
_NAMES = ("data.name", "model.family")
# What trains from scratch: the net's depths are known once it is found.
_SCRATCH = {"mode": "scratch", "model.depths": ()}


@dataclasses.dataclass(frozen=True)
class Cell:
    """A run of a study."""

    name: str  # Of its folder; unique in the study.
    label: str  # For people.
    seed: int
    settings: dict[str, Any]  # Nested; what `found_by` finds is open in them.
    # The name of the cell whose found net this one trains from scratch, or `starts` from.
    found_by: str = ""
    starts: bool = False

    def completed(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """The settings, with what another cell has found: {"model.depths": ...} for example."""
        return nest(flatten(self.settings) | dict(found))


@dataclasses.dataclass(frozen=True)
class Entry:
    """Where the cells of a row stand in the tables: one a seed, and their baselines."""

    section: Section
    row: Row
    cells: tuple[Cell, ...]
    baselines: tuple[Cell, ...]


class Folder:
    """The files of a cell, in `WORKDIR/cells/NAME`."""

    def __init__(self, workdir: Path, cell: Cell):
        self.cell = cell
        self.root = workdir / "cells" / cell.name
        self.run = self.root / "run"  # The workdir of the run itself.
        self.found = workdir / "cells" / cell.found_by / "run"  # That of `cell.found_by`.
        self.log = self.root / "log.txt"  # What the run printed.
        self.error = self.root / "error.txt"  # Why the last start failed; not there otherwise.
        self.lock = self.root / "lock"  # Held by the process that runs the cell.

    @property
    def state(self) -> State:
        if self.why_failed():
            return "failed"
        return "done" if Workdir(self.run).result.is_file() else "missing"

    @property
    def is_done(self) -> bool:
        return self.state == "done"

    def fail(self, reason: str) -> None:
        """Keeps the reason for the table, until the cell is run again."""
        replace_file(self.error, f"{reason}\n".encode())

    def why_failed(self) -> str:
        """Says why no result counts: how the last start failed, or what is wrong with the run."""
        with contextlib.suppress(OSError):
            return self.error.read_text(encoding="utf-8").strip()
        try:
            if self.result() is None:
                return ""
            lines = self._differences()
        except UserError as error:
            return str(error)
        if not lines:
            return ""
        return (
            f"{self.run} holds a run of another config, perhaps of another version's defaults or of"
            f" another net that was found; delete {self.root}, and it is run anew. What differs:"
            f" {'; '.join(lines)}"
        )

    def _differences(self) -> list[str]:
        """What the finished run was begun with otherwise than the cell says.

        A name leaves out what is at its default, which another version may have otherwise, and what
        another cell finds, which may have been run anew.
        """
        run = Workdir(self.run)
        if not run.config.is_file():
            return []
        was = read_config(run)
        flat, given = flatten(was), ["init_from"] if self.cell.starts else []
        if self.cell.settings["model"]["convolution"] != "xla":  # The machine decided.
            given.append("model.convolution")
        told = {name: flat[name] for name in given if name in flat}
        if self.cell.found_by:
            finder = Workdir(self.found).result
            found = read_result(finder) if finder.is_file() else {}
            told["model.depths"] = tuple(found.get("depths") or flat.get("model.depths", ()))
        return differences(was, resolve(self.cell.completed(told), to_read=True).to_dict())

    def result(self) -> dict[str, Any] | None:
        """Reads the run's result.json, None where there is none yet; UserError if damaged."""
        path = Workdir(self.run).result
        return read_result(path) if path.is_file() else None


def expand(
    study: Study, changes: Mapping[str, Any] | None = None, seeds: Sequence[int] = ()
) -> tuple[list[Cell], list[Entry]]:
    """Lists the cells of a study, each once, and for every row its cells.

    Cells that wait for another one come last, both kinds seed by seed. `changes`, {"a.b": value},
    are laid over every cell's config, as from the command line; `seeds` stand for the study's and
    its sections' where there are any.

    Raises:
      UserError: for a config that cannot be used; names its section and row. For a change of what
        the rows of a section differ in.
    """
    changes = dict(changes or {})
    if "seed" in changes:
        raise UserError("config.seed cannot be changed for a whole study; use --seeds=0,1,2")
    # A config file may register a family or a policy: it is run once.
    load = functools.cache(lambda name: flatten(load_config(name)) if name else {})
    cells: dict[str, Cell] = {}
    entries = []
    for section in study.sections:
        for row in section.rows:
            try:
                base = load(row.config) | _QUIET | dict(row.overrides)
                before = row.start and load(row.start.config) | _QUIET | dict(row.start.overrides)
                found = []
                for seed in seeds or section.seeds or study.seeds:
                    more, first = changes | {"seed": seed}, None
                    if row.start and before:
                        first = _make_cell(row.start, before | more)
                        cells.setdefault(first.name, first)
                    found.append(_make_cell(row, base | more, first.name if first else "", True))
                scratch = base | _SCRATCH | dict(row.scratch or {}) | changes
                trained = [
                    _make_cell(row, scratch | {"seed": cell.seed}, cell.name, False)
                    for cell in (found if row.scratch is not None else ())
                ]
            except UserError as error:
                raise UserError(f"section {section.title!r}, row {row.label!r}: {error}") from None
            both = ([cells.setdefault(c.name, c) for c in each] for each in (found, trained))
            entries.append(Entry(section, row, *map(tuple, both)))
    for section in study.sections:
        _check_changes(section, changes, load)
    # Seed by seed: a study that is stopped early has whole tables of fewer seeds, and the programs
    # that a row compiles for its first seed are there for the others.
    seen = list(dict.fromkeys(cell.seed for cell in cells.values()))

    def turn(cell: Cell) -> int:
        return 1 + turn(cells[cell.found_by]) if cell.found_by else 0

    return sorted(cells.values(), key=lambda c: (turn(c), seen.index(c.seed))), entries


def _check_changes(
    section: Section, changes: Mapping[str, Any], load: Callable[[str], dict[str, Any]]
) -> None:
    """Rows that became others by a change would bear their names, and the paper's numbers.

    All may be made shorter, if none becomes another's.
    """
    defaults = {name: key.default for name, key in all_keys().items()}
    # Of each row its run, and before it that which it starts from.
    runs = [[each for each in (row, row.start) if each] for row in section.rows]
    own = [[defaults | load(r.config) | dict(r.overrides) for r in each] for each in runs]
    changed = [[values | dict(changes) for values in each] for each in own]
    are_as_many = sum(map(own.index, own)) == sum(map(changed.index, changed))
    for key in changes:
        is_compared = key in _NAMES or any(key in r.overrides for each in runs for r in each)
        differs = len({repr(values.get(key)) for each in own for values in each}) > 1
        is_short = key in _LENGTHS and are_as_many
        if differs and (is_compared or not are_as_many) and not is_short:
            raise UserError(
                f"section {section.title!r}: its rows differ in {key}, so config.{key} cannot be"
                " changed for all of them; run another part of the study, or a file of your own"
            )


def _make_cell(row: Row, flat: dict[str, Any], found_by: str = "", starts: bool = False) -> Cell:
    """A row's cell, which trains what `found_by` finds from scratch or `starts` from it."""
    starts = starts and bool(found_by)
    settings = resolve(nest(flat)).to_dict()
    if settings["mode"] == "evaluate":
        raise UserError("mode 'evaluate' trains nothing; a study takes 'grow' and 'scratch'")
    # Only what differs from what runs did before there was the key, so that a key that a later
    # version adds leaves names as they are.
    keys = all_keys()
    computed = {
        name: value
        for name, value in flatten(settings).items()
        if not keys[name].free and value != keys[name].was
    }
    known_by = [computed, found_by, *(["starts"] if starts else [])]
    text = json.dumps(known_by, sort_keys=True, default=list)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    seed = settings["seed"]
    # Nothing of the row: two rows that compute the same are one cell.
    dataset = settings["data"]["name"]
    if ":" in dataset or "/" in dataset:
        dataset = Path(dataset.split(":")[-1]).stem
    words = [settings["model"]["family"], dataset, settings["mode"]]
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(words)).strip("-.").lower()[:60]
    label = f"{row.label}{', from scratch' if found_by and not starts else ''}, seed {seed}"
    return Cell(f"{slug}-s{seed}-{digest}", label, seed, settings, found_by, starts)
