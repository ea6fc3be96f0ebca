"""The tables of a study: numbers that are right, and nothing that failed or is missing hidden."""

import csv
import io
import json
import re
import statistics

import pytest

from autogrow_jax.studies import Published, Row, Section
from autogrow_jax.studies.cells import Cell
from autogrow_jax.studies.records import Line, Record, Table, format_csv, format_json
from autogrow_jax.studies.tables import format_markdown, format_text, write_tables

_VERSIONS = {"autogrow_jax": "1.2", "jax": "0.10", "jaxlib": "0.10", "flax": "0.12", "optax": "0.3"}
_REASON = "OutOfMemory: 17 bytes | of <none>\nTraceback: long"
_COMMAND = "python -m autogrow_jax.studies --study=configs/studies/some.py --workdir=runs/some"


def _record(name, seed, state="done", **fields):
    cell = Cell(f"{name}-s{seed}", f"{name}, seed {seed}", seed, {"model": {"family": "plain3"}})
    if state != "done":
        return Record(cell, state, _REASON if state == "failed" else "")
    done = {
        "depths": (2, 1, 1),
        "accuracy": 90.0 + seed,
        "validation": "held-out",
        "epochs": 30,
        "growth_epochs": 20,
        "num_params": 26_682,
        "flops": 3_400_000,
        "training_flops": 5.1e12,
        "seconds": 12.5,
        "compile_seconds": 4.0,
        "machine": "1 x Fast Chip",
        "versions": _VERSIONS,
    }
    return Record(cell, "done", **(done | fields))


def _line(name, records, baselines=(), published=None, found=False):
    row = Row((name,), published=published, found=found)
    return Line(row, tuple(records), tuple(baselines))


def _table(lines, title="Some section", columns=("net",), note="", x=""):
    rows = [line.row for line in lines]
    return Table(Section(title, columns, rows, note, x), tuple(lines))


@pytest.fixture
def tables():
    """Three seeds, with a failed, a missing and a diverged run, baselines, the paper's numbers."""
    whole = _line(
        "whole",
        [_record("whole", seed, depths=(2 + seed, 1, 1)) for seed in range(3)],
        [_record("whole-scratch", seed, accuracy=88.5 + seed / 2) for seed in range(3)],
        Published(94.27, (42, 42, 42), -0.03),
    )
    broken = _line(
        "bro|ken",
        [_record("b", 0, accuracy=91.25), _record("b", 1, "failed"), _record("b", 2, "missing")],
        [_record("b-scratch", 0, "failed"), *(_record("b-scratch", s, "missing") for s in (1, 2))],
    )
    diverged = _line("diverged", [_record("d", 0, accuracy=None), _record("d", 1)])
    missing = _line("missing", [_record("m", seed, "missing") for seed in range(3)])
    return [
        _table([whole, broken], note="What is compared."),
        _table([diverged, missing], title="Another", columns=("K",), x="K"),
    ]


def _read_csv(tables):
    return list(csv.DictReader(io.StringIO(format_csv(tables))))


def _formats(tables):
    return {
        "text": format_text("Study", tables, command=_COMMAND),
        "markdown": format_markdown("Study", tables, command=_COMMAND),
        "csv": format_csv(tables),
        "json": format_json("Study", tables, command=_COMMAND),
    }


def _cells(row):
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]


def _markdown_table(tables, number=0):
    """The rows of a table as lists of cells, the header first."""
    text = format_markdown("Study", tables, command="")
    blocks = [block for block in text.split("\n\n") if block.startswith("|")]
    return [_cells(row) for row in blocks[number].split("\n")]


def _markdown_columns(tables, number=0):
    header, _, *rows = _markdown_table(tables, number)
    return {name: [row[i] for row in rows] for i, name in enumerate(header)}


def test_csv_gives_the_numbers_back(tables):
    whole, broken, diverged, missing = _read_csv(tables)
    accuracies, scratch = [90.0, 91.0, 92.0], [88.5, 89.0, 89.5]
    deltas = [a - b for a, b in zip(accuracies, scratch, strict=True)]
    for name, values in (("accuracy", accuracies), ("scratch_accuracy", scratch)):
        assert float(whole[f"{name}_mean"]) == statistics.fmean(values)
        assert float(whole[f"{name}_std"]) == statistics.stdev(values)
    assert float(whole["delta_mean"]) == statistics.fmean(deltas)
    assert (whole["n"], whole["num_seeds"], whole["delta_n"]) == ("3", "3", "3")
    assert whole["found_depths"] == "2-1-1 3-1-1 4-1-1"
    assert broken["found_depths"].split()[1:] == ["-", "-"]  # One for each of `seeds`.
    assert float(whole["blocks_mean"]) == 5
    assert float(whole["training_flops_mean"]) == 5.1e12
    assert (whole["paper_depths"], whole["paper_accuracy"]) == ("42-42-42", "94.27")
    assert (broken["n"], broken["accuracy_mean"], broken["accuracy_std"]) == ("1", "91.25", "")
    assert (broken["num_failed"], broken["num_missing"]) == ("2", "1")
    assert (diverged["n"], diverged["num_seeds"]) == ("1", "2")
    assert (missing["n"], missing["accuracy_mean"], missing["error"]) == ("0", "", "")


def test_csv_has_a_column_for_each_name_of_each_section(tables):
    rows = _read_csv(tables)
    assert [row["section"] for row in rows] == ["Some section"] * 2 + ["Another"] * 2
    assert [row["net"] for row in rows] == ["whole", "bro|ken", "", ""]
    assert [row["K"] for row in rows] == ["", "", "diverged", "missing"]


def test_csv_keeps_a_sections_column_apart_from_its_own_of_the_same_name():
    (row,) = _read_csv([_table([_line("five", [_record("a", 0)])], columns=("seeds",))])
    assert (row["seeds"], row["seeds_"]) == ("0", "five")


def test_markdown_has_mean_and_standard_deviation(tables):
    columns = _markdown_columns(tables)
    assert columns["accuracy %"] == ["91.00 ± 1.00", "91.25 (n=1)"]
    assert columns["from scratch %"] == ["89.00 ± 0.50", "-"]
    assert columns["delta"] == ["+2.00 ± 0.50", "-"]
    assert columns["paper: delta"] == ["-0.03", "-"]
    assert columns["depths"] == ["2-1-1, 3-1-1, 4-1-1", "2-1-1"]


def test_every_row_of_markdown_has_as_many_cells_as_its_header(tables):
    for number in range(len(tables)):
        header, rule, *rows = _markdown_table(tables, number)
        assert len(rows) == len(tables[number].lines)
        assert all(set(cell) <= set("-:") for cell in rule)
        assert {len(header)} == {len(row) for row in (rule, *rows)}


def test_a_name_cannot_break_markdown():
    lines = [_line("a|b <i> *c* _d_\ne", [_record("a", 0)])]
    cell = _markdown_columns([_table(lines)])["net"][0]
    assert cell == r"a\|b &lt;i> \*c\* \_d\_ e"


def test_every_failed_run_gives_its_reason_in_every_format(tables):
    first_line = _REASON.split("\n")[0]
    escaped = first_line.replace("|", r"\|").replace("<", "&lt;")
    texts = _formats(tables)
    for name, text in texts.items():
        reason = escaped if name == "markdown" else first_line
        assert " ".join(text.split()).count(reason) == 2, name
        assert ("Traceback" in text) == (name == "json")
    for name in ("text", "markdown"):
        assert f"seed 1 failed: {escaped if name == 'markdown' else first_line}" in texts[name]
        assert "from scratch, seed 0 failed: " in texts[name]


def test_what_has_not_run_is_said_and_counted(tables):
    for name in ("text", "markdown"):
        text = _formats(tables)[name]
        assert text.count("not run yet (1 of 3 seeds)") == 1
        assert text.count("not run yet (3 of 3 seeds)") == 1
        assert text.count("seed 0: its accuracy is not a number") == 1


def test_a_baseline_that_is_missing_is_said_where_its_net_was_found():
    found = [_record("a", 0), _record("a", 1, "missing")]
    baselines = [_record("a-scratch", seed, "missing") for seed in (0, 1)]
    text = format_text("Study", [_table([_line("a", found, baselines)])], command="")
    assert "from scratch, not run yet (1 of 2 seeds)" in text


def test_a_row_in_which_all_failed_says_so_in_its_accuracy():
    lines = [_line("a", [_record("a", 0, "failed")]), _line("b", [_record("b", 0)])]
    assert _markdown_columns([_table(lines)])["accuracy %"] == ["failed", "90.00"]


def test_columns_without_content_are_left_out():
    bare = _record("a", 0, training_flops=None)
    columns = _markdown_columns([_table([_line("a", [bare])])])
    assert set(columns) == {
        "net",
        "depths",
        "accuracy %",
        "epochs",
        "forward MFLOP",
        "seconds",
        "parameters",
    }


def test_depths_that_are_equal_are_said_once():
    lines = [_line("a", [_record("a", seed) for seed in range(3)])]
    assert _markdown_columns([_table(lines)])["depths"] == ["2-1-1"]


@pytest.mark.parametrize(
    "flops, header, cells",
    [
        ((999, 1_000), "forward FLOP", ["999", "1,000"]),
        ((1_000, 2_500), "forward kFLOP", ["1.00", "2.50"]),
        ((593_000_000, 156_000_000), "forward MFLOP", ["593", "156"]),
        ((12_340_000_000, 2_000_000_000_000), "forward GFLOP", ["12.3", "2,000.0"]),
    ],
)
def test_flops_are_in_the_unit_of_the_smallest(flops, header, cells):
    lines = [_line(str(i), [_record(str(i), 0, flops=value)]) for i, value in enumerate(flops)]
    assert _markdown_columns([_table(lines)])[header] == cells


def test_a_delta_that_rounds_to_zero_has_no_minus():
    line = _line("a", [_record("a", 0, accuracy=90.0)], [_record("s", 0, accuracy=90.001)])
    assert _markdown_columns([_table([line])])["delta"] == ["+0.00"]


def test_json_holds_every_record_and_no_nan(tables):
    bad = _line("nan", [_record("n", 0, training_flops=float("nan"))])
    content = json.loads(
        format_json("Study", [*tables, _table([bad])], command=_COMMAND),
        parse_constant=lambda name: pytest.fail(f"the file holds {name}"),
    )
    assert (content["title"], content["command"]) == ("Study", _COMMAND)
    lines = [line for table in content["tables"] for line in table["lines"]]
    runs = [run for line in lines for run in (*line["runs"], *line["runs_from_scratch"])]
    assert len(runs) == sum(len(table.records) for table in tables) + 1
    first = lines[0]
    assert first["accuracy"] == {"mean": 91.0, "std": 1.0, "n": 3, "values": [90, 91, 92]}
    assert first["runs"][1]["cell"]["seed"] == 1
    assert first["runs"][1]["versions"] == _VERSIONS
    assert [run["error"] for run in lines[1]["runs"]] == ["", _REASON, ""]


# --- What is said about the numbers.


@pytest.mark.parametrize("form", [format_text, format_markdown])
def test_split_machine_versions_seeds_note_and_command_are_said(tables, form):
    text = " ".join(form("Study", tables, command=_COMMAND).replace("\\_", "_").split())
    for part in (
        "steered by held-out images",
        "with the final weights",
        "What is compared.",
        "1 x Fast Chip",
        "jaxlib 0.10, flax 0.12, optax 0.3",
        "Seeds 0, 1, 2",
        "Seconds include compiling",
        _COMMAND,
    ):
        assert part in text


def test_the_papers_protocol_is_named():
    record = _record("a", 0, validation="test")
    text = " ".join(format_text("Study", [_table([_line("a", [record])])], command="").split())
    assert "steered by the test set (the paper's protocol); accuracy is the best of all" in text
    assert "final weights" not in text


def test_the_images_that_steered_are_counted_where_all_runs_had_as_many():
    def text(**fields):
        records = [_record("a", seed, **fields, num_validation=286) for seed in range(2)]
        others = [_record("b", 0, **fields, num_validation=100)]
        return [
            " ".join(format_text("Study", [_table(lines)], command="").split())
            for lines in ([_line("a", records)], [_line("a", records), _line("b", others)])
        ]

    alone, mixed = text(validation="0.2")
    assert "Growth was steered by a fifth of train (286 images); accuracy is on the test" in alone
    assert "Growth was steered by a fifth of train; accuracy is on the test set" in mixed
    alone, mixed = text(validation="held-out")
    assert "Growth was steered by 286 held-out images; accuracy" in alone
    assert "Growth was steered by held-out images; accuracy" in mixed


def test_runs_that_disagree_are_counted():
    records = [
        _record("a", 0, machine="Slow Chip", validation="test"),
        _record("a", 1, versions=_VERSIONS | {"jax": "0.9"}),
        _record("a", 2),
    ]
    text = " ".join(format_text("Study", [_table([_line("a", records)])], command="").split())
    assert "Machines: Slow Chip (1 run); 1 x Fast Chip (2 runs)." in text
    assert re.search(r"jax 0.10, .* \(2 runs\); .*jax 0.9, .* \(1 run\)", text)
    assert "(the paper's protocol)" in text
    assert "final weights. (2 runs)" in text


def test_a_run_in_two_rows_is_counted_once():
    shared, other = _record("a", 0), _record("b", 0, machine="Slow Chip")
    table = _table([_line("1", [shared]), _line("2", [shared]), _line("3", [other])])
    text = format_text("Study", [table], command="")
    assert "1 x Fast Chip (1 run); Slow Chip (1 run)" in text


def test_what_holds_of_all_sections_is_said_once(tables):
    text = format_text("Study", tables, command="")
    assert text.count("1 x Fast Chip") == 1
    elsewhere = _table([_line("x", [_record("x", 0, machine="Slow Chip")])], title="Third")
    text = format_text("Study", [*tables, elsewhere], command="")
    assert text.count("1 x Fast Chip") == 2
    assert text.count("Slow Chip") == 1


# --- Text and files.


def test_text_lines_up_and_fits(tables):
    seeds = [_record("long", s, depths=(20 + s, 51, 16, 16)) for s in range(5)]
    baselines = [_record("long-s", s, accuracy=9.5 + s) for s in range(5)]
    wide = _line("Bottleneck4ResNet on FashionMNIST", seeds, baselines, Published(9.0, (3, 3), 1.0))
    text = format_text("Study", [*tables, _table([wide])], command="")
    assert max(map(len, text.split("\n"))) <= 120
    for seed in range(5):
        assert f"{20 + seed}-51-16-16" in text
    table = format_text("Study", tables[:1], command="").split("\n\n")[1].split("\n")
    at = [line.index(value) for line in table for value in ("91.00 ±", "91.25 (") if value in line]
    assert len(at) == 2 and len(set(at)) == 1


def test_files_are_written_and_the_same_again(tables, tmp_path):
    folders = [tmp_path / "one" / "deep", tmp_path / "two"]
    paths = [write_tables("Study", tables, folder, command=_COMMAND) for folder in folders]
    assert [path.name for path in paths[0]] == ["table.txt", "table.md", "table.csv", "table.json"]
    for one, two in zip(*paths, strict=True):
        assert one.read_bytes() == two.read_bytes()
        assert one.read_text(encoding="utf-8").endswith("\n")
    assert sorted(folders[0].iterdir()) == sorted(paths[0])
