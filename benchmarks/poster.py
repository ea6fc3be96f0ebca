"""The table of the paper's poster: ours beside theirs, and how to run what has not been run.

python -m benchmarks.poster                   # writes results/poster/README.md and table.json
python -m benchmarks.poster --keep WORKDIR    # keeps a run of one of its cells, and does so

The poster has 20 nets on sets, each with the difference that growth makes to training the same
net from scratch, and 16 sizes of sets; two controls of these are ours. Everything is read from the
files that runs left, which are kept in results/poster/runs: `config.json`, `metrics.jsonl` and,
once a run is finished, `result.json`. One that is under way can be kept too, and kept again later.
Which cell a run is of is read from its config; one that computes something else is refused, and
paths of the machine are left out.
"""

import argparse
import dataclasses
import datetime
import json
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from autogrow_jax.errors import UserError
from autogrow_jax.reporting import Workdir, metrics, replace_file
from autogrow_jax.reporting.numbers import format_depths, format_duration
from autogrow_jax.reporting.result import describe_machine
from autogrow_jax.reporting.workdir import read_config, read_object
from autogrow_jax.settings import DEFAULTS, FREE_KEYS, flatten
from autogrow_jax.settings_files import load_config, load_study
from autogrow_jax.studies import Published, Section
from autogrow_jax.studies.cells import expand
from benchmarks.poster_report import format_markdown

ROOT = Path(__file__).parents[1] / "results" / "poster"
# Keys that say how something is computed, not what; and the seed, which a cell may have several of.
_HOW = FREE_KEYS | {"seed", "num_devices", "model.convolution", "growth.programs"}
_HOW |= {"growth.capacity", "data.on_device"}
_MAIN, _SIZES = "configs/studies/main_table.py", "configs/studies/dataset_size.py"
# A string of JSON that is, or ends with, an absolute path.
_PATH = re.compile(r'"(?:[^"]*:)?(?:~|/|[A-Za-z]:\\\\)[^"]*"')


class Line(NamedTuple):
    """A row of the poster, or of one of the two controls.

    Attributes:
      title: of its table.
      name: of its runs' folders, without the seed.
      names: in its first columns.
      settings: of the run that grows, flat.
      published: the paper's numbers; None in a control.
      command: which runs it, but for data, workdir and seed.
    """

    title: str
    name: str
    names: tuple[str, ...]
    settings: dict[str, Any]
    published: Published | None
    command: str


class Kept(NamedTuple):
    """A run in results/poster/runs, or to come there."""

    folder: Workdir
    config: dict[str, Any]  # Flat; all keys that there were when it was run.
    lines: list[dict[str, Any]]
    result: dict[str, Any] | None  # None of a run under way.
    about: dict[str, Any]  # When it was kept, and what commit it is of, where that is known.

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @property
    def accuracy(self) -> float:
        """The best on the test set, in percent."""
        return max(line["validation_accuracy"] for line in self.lines)


def list_lines() -> list[Line]:
    """The 20 + 16 cells of the poster and, of those on a part of a set, two controls."""
    lines = []
    for file in (_MAIN, _SIZES):
        _, entries = expand(load_study(file), seeds=(0,))
        for entry in entries:
            whole = "100 %" in entry.row.names
            if file == _SIZES and whole and entry.section.title != "Dataset size, K scaled":
                continue  # At full size the controls are the published run.
            part = Path(entry.row.config).stem
            changes = dict(entry.row.overrides)
            if changes.get("data.fraction") == 1.0:
                del changes["data.fraction"]
            base = flatten(load_config(entry.row.config))
            changes = {key: value for key, value in changes.items() if base[key] != value}
            command = ["autogrow", "train", f"--config={entry.row.config}"]
            command += [f"--config.{key}={value:g}" for key, value in changes.items()]
            names, slug = entry.row.names, _slug(part, entry.section, entry.row.names)
            settings = DEFAULTS | flatten(entry.cells[0].settings)
            given = (entry.section.title, slug, names, settings, entry.row.published)
            lines.append(Line(*given, shlex.join(command)))
    return lines


def _slug(part: str, section: Section, names: Sequence[str]) -> str:
    if section.title == "Main table" or "100 %" in names:
        return part
    control = {"Dataset size, K and J scaled": "_j_scaled", "Dataset size, K fixed": "_k_fixed"}
    return f"{part}_{names[2].split()[0]}{control.get(section.title, '')}"


def read_kept(folder: Path) -> Kept:
    """Reads a run's files; UserError where they are not those of a run."""
    workdir = Workdir(folder)
    result = read_object(workdir.result) if workdir.result.exists() else None
    lines = metrics.read(workdir.metrics) if workdir.metrics.exists() else []
    if not lines:
        raise UserError(f"{folder} has no epoch of a run yet")
    about = folder / "about.json"
    return Kept(
        workdir,
        flatten(read_config(workdir)),
        lines,
        result,
        read_object(about) if about.exists() else {},
    )


def find_line(kept: Kept, lines: Sequence[Line]) -> tuple[Line, bool]:
    """The cell that a run is of, and whether it trains that one's net from scratch.

    Raises:
      UserError: it is of none; names the nearest and the keys that differ.
    """
    is_scratch = kept.config["mode"] == "scratch"
    apart = _HOW | ({"mode", "model.depths"} if is_scratch else set())

    def compare(line: Line) -> list[str]:
        return [
            f"{key}: {kept.config[key]!r}, not {value!r}"
            for key, value in sorted(line.settings.items())
            # What a younger key may change, the run did as the paper's config does now.
            if key in kept.config.keys() - apart and _plain(kept.config[key]) != _plain(value)
        ]

    nearest = min(lines, key=lambda line: len(compare(line)))
    if differ := compare(nearest):
        raise UserError(
            f"{kept.folder.root} is none of the poster's cells; the nearest is"
            f" {' '.join(nearest.names)}, from which it differs in {'; '.join(differ)}"
        )
    return nearest, is_scratch


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def keep(workdir: Path, root: Path, commit: str = "") -> Path:
    """Copies what the table needs of a run into `root`, without paths of this machine.

    Raises:
      UserError: it is none of the poster's cells, or a path is left in a file.
    """
    kept = read_kept(workdir)
    line, is_scratch = find_line(kept, list_lines())
    target = root / "runs" / f"{line.name}{'_scratch' if is_scratch else ''}_seed{kept.seed}"
    config = read_config(kept.folder)
    for key in FREE_KEYS:
        group, _, leaf = key.rpartition(".")
        holder = config.get(group, {}) if group else config
        if isinstance(holder.get(leaf), str):
            holder[leaf] = ""
    about = {"kept": datetime.date.today().isoformat()} | ({"commit": commit} if commit else {})
    texts = {
        "config.json": json.dumps(config, indent=2),
        "metrics.jsonl": "\n".join(json.dumps(each) for each in kept.lines),
        "about.json": json.dumps(about),
    }
    if kept.result is not None:
        texts["result.json"] = json.dumps(kept.result, indent=2)
    for name, text in texts.items():
        if found := _PATH.search(text):
            raise UserError(f"{name} of {workdir} holds {found[0]}, a path of this machine")
    for name, text in texts.items():
        replace_file(target / name, f"{text}\n".encode())
    return target


def describe_state(kept: Kept) -> str:
    """What has become of a run, in words."""
    last, growth = kept.lines[-1], sum(line["phase"] == "growth" for line in kept.lines)
    net = format_depths(last["depths"])
    if kept.result is not None:
        grown = f"{growth} epochs of growth, " if growth else ""
        seconds = kept.result["seconds"]["total"]
        machine = describe_machine(kept.result.get("devices") or {})
        return f"{grown}{kept.result['epochs']} in all; {format_duration(seconds)}, {machine}"
    if last["phase"] == "growth":
        return f"under way: {net}, growing, after {growth} epochs"
    done, of = len(kept.lines) - growth, kept.config["finetune.epochs"]
    before = f"{net} after {growth} epochs of growth, fine-tuning" if growth else f"{net}, training"
    return f"under way: {before} at epoch {done} of {of}"


def make_rows(
    lines: Sequence[Line], runs: Sequence[tuple[Kept, Line, bool]]
) -> list[dict[str, Any]]:
    """A row for each line: the paper's numbers, ours by seed, what has been run."""
    rows = []
    for line in lines:
        # At full size the row of a set's part is that of the main table.
        own = [(kept, s) for kept, of, s in runs if of.name == line.name]
        grown = sorted((kept for kept, s in own if not s), key=lambda kept: kept.seed)
        scratch = {kept.seed: kept for kept, s in own if s}
        ours = []
        for kept in grown:
            is_done = kept.result is not None
            base = scratch.get(kept.seed)
            same = base is not None and base.lines[-1]["depths"] == kept.lines[-1]["depths"]
            delta = None
            if is_done and base is not None and base.result is not None and same:
                delta = kept.accuracy - base.accuracy
            state = describe_state(kept)
            if base is not None and base.result is None:
                state += f"; from scratch {describe_state(base)}"
            ours.append(
                {
                    "seed": kept.seed,
                    "depths": kept.lines[-1]["depths"],
                    "accuracy": kept.accuracy,
                    "final_accuracy": (kept.result or {}).get("test_accuracy"),
                    "delta": delta,
                    "is_done": is_done,
                    "is_found": kept.lines[-1]["phase"] != "growth",
                    "validation": kept.config["data.validation"],
                    "state": state,
                    "commit": kept.about.get("commit", ""),
                    "kept": kept.about.get("kept", ""),
                    "files": f"runs/{kept.folder.root.name}",
                }
            )
        published = line.published and dataclasses.asdict(line.published)
        row = {"table": line.title, "name": line.name, "names": line.names, "paper": published}
        rows.append(row | {"ours": ours, "commands": _commands(line, ours)})
    return rows


def _commands(line: Line, ours: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    where = f"--config.data.dir=DATA --workdir=runs/{line.name}"
    commands = {"grow": f"{line.command} {where}_seed0"}
    found = next((each["depths"] for each in ours if each["is_found"] and not each["seed"]), None)
    depths = ",".join(map(str, found)) if found else "DEPTHS"
    change = f"--config.mode=scratch --config.model.depths={depths}"
    if line.published is not None:
        commands["scratch"] = f"{line.command} {change} {where}_scratch_seed0"
    return commands


def make_table(root: Path) -> list[Path]:
    """Writes README.md and table.json of all runs that are kept in `root`."""
    lines = list_lines()
    folders = sorted(path for path in (root / "runs").glob("*") if path.is_dir())
    runs = [(kept, *find_line(kept, lines)) for kept in map(read_kept, folders)]
    rows = make_rows(lines, runs)
    texts = {"README.md": format_markdown(rows), "table.json": json.dumps(rows, indent=1) + "\n"}
    for name, text in texts.items():
        replace_file(root / name, text.encode())
    return [root / name for name in texts]


def main(arguments: Sequence[str] | None = None) -> int:
    """Keeps runs where asked to and writes the table; returns 1 where a run cannot be kept."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.poster", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--keep", nargs="+", default=[], metavar="WORKDIR")
    parser.add_argument("--commit", default="", help="that the runs to keep are of")
    parser.add_argument("--root", default=str(ROOT), help="folder of the table")
    options = parser.parse_args(arguments)
    try:
        for workdir in options.keep:
            print(f"kept {keep(Path(workdir), Path(options.root), options.commit)}")
        for path in make_table(Path(options.root)):
            print(f"wrote {path}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
