"""Many runs, one table: what a study is, for study files.

    python -m autogrow_jax.studies --study=configs/studies/smoke.py --workdir=runs/smoke

A study file is a Python file with `get_study()`, which returns a `Study`: rows of tables, each a
config that is run with several seeds. `docs/studies.md` has one.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from autogrow_jax.errors import UserError
from autogrow_jax.settings import check_key

__all__ = ["Published", "Row", "Section", "Study"]


@dataclasses.dataclass(frozen=True)
class Published:
    """What the paper says of a row: of one seed, measured on the test set that steered growth.

    Accuracy is in percent. `depths`, empty where the paper has none, are those of the net that was
    found; `delta` is accuracy less that of the same net trained from scratch, in points.
    """

    accuracy: float
    depths: tuple[int, ...] = ()
    delta: float | None = None


@dataclasses.dataclass(frozen=True)
class Row:
    """A config that is run once with every seed.

    Attributes:
      names: what stands in the row's first columns, one for each of its section's `columns`.
      config: a config file, as for `python -m autogrow_jax.main --config`; "" means the defaults.
      overrides: {"growth.interval": 5}, laid over the config.
      scratch: None, or overrides with which the net that was found is trained from scratch, in
        mode "scratch", for the column of differences; empty to train it as its config says.
      published: what the paper has here.
      found: draw this row as the net that was found, among rows of fixed depths.
      start: a row whose net, of the same seed, this one starts from, see `config.init_from`. It is
        run too, whether or not a section holds it.
    """

    names: tuple[str, ...]
    config: str = ""
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    scratch: Mapping[str, Any] | None = None
    published: Published | None = None
    found: bool = False
    start: "Row | None" = None

    def __post_init__(self) -> None:
        if isinstance(self.names, str):
            raise UserError(f"a row's names are {self.names!r}; give a tuple: ({self.names!r},)")
        object.__setattr__(self, "names", tuple(str(name) for name in self.names))
        for key in (*self.overrides, *(self.scratch or {})):
            check_key(key, later=True)
            if key == "seed":
                raise UserError(
                    f"row {self.label} overrides 'seed'; seeds are the study's, or its section's"
                )
        if self.start and self.start.start:
            raise UserError(f"row {self.start.label}, where {self.label} starts, has a start too")

    @property
    def label(self) -> str:
        return " / ".join(self.names)


@dataclasses.dataclass(frozen=True)
class Section:
    """A table, and a figure: rows that are compared with each other.

    Attributes:
      title: over the table; its letters and digits name the files of its figure.
      columns: names of the first columns.
      rows: at least one.
      note: a sentence or two under the table: what is compared, what to expect.
      x: the column whose numbers are the x-axis of a further panel of the figure, "" for none.
      seeds: instead of the study's.
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[Row]
    note: str = ""
    x: str = ""
    seeds: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", tuple(self.rows))
        object.__setattr__(self, "columns", tuple(self.columns))
        object.__setattr__(self, "seeds", check_seeds(self.seeds) if self.seeds else ())
        if not self.rows:
            raise UserError(f"section {self.title!r} has no rows")
        for row in self.rows:
            if len(row.names) != len(self.columns):
                raise UserError(
                    f"section {self.title!r} has the columns {self.columns}, but a row is named"
                    f" {row.names}; give one name for each column"
                )
        if self.x and self.x not in self.columns:
            raise UserError(f"section {self.title!r}: x is {self.x!r}, not one of {self.columns}")


@dataclasses.dataclass(frozen=True)
class Study:
    """Tables that are made together, at least one; each row is run with each of the seeds.

    A run that several sections hold is done once. The title stands over everything.
    """

    title: str
    sections: Sequence[Section]
    seeds: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sections", tuple(self.sections))
        object.__setattr__(self, "seeds", check_seeds(self.seeds))
        titles = [section.title for section in self.sections]
        if not titles:
            raise UserError(f"study {self.title!r} has no sections")
        twice = sorted({title for title in titles if titles.count(title) > 1})
        if twice:
            raise UserError(f"two sections are called {twice[0]!r}; give each its own title")


def check_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    """Seeds as a tuple; UserError where there is none, or one comes twice."""
    seeds = tuple(seeds)
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"seeds are {seeds}; give at least one, each once, such as (0, 1, 2)")
    return seeds
