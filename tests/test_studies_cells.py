"""Studies: rows, cells and their names."""

import dataclasses
import itertools
import json

import pytest
from stand_ins import write_finished

from autogrow_jax.build import resolve
from autogrow_jax.errors import UserError
from autogrow_jax.settings import KEYS, Settings, flatten, nest
from autogrow_jax.studies import Row, Section, Study
from autogrow_jax.studies import cells as cells_lib
from autogrow_jax.studies.cells import Folder, expand
from autogrow_jax.studies.records import read_record

DIGITS = "configs/digits_plain3.py"


def _section(rows, title="Some", **settings):
    return Section(title, ("what",), rows, **settings)


def _study(*rows, **settings):
    return Study("A study", [_section(rows)], **{"seeds": (0, 1), **settings})


def test_a_cell_for_each_row_and_seed_and_its_baseline_after_all_of_them():
    cells, entries = expand(
        _study(Row(("a",), DIGITS, scratch={}), Row(("b",), DIGITS, {"growth.interval": 5}))
    )
    assert [cell.label for cell in cells] == [
        "a, seed 0",
        "b, seed 0",
        "a, seed 1",
        "b, seed 1",
        "a, from scratch, seed 0",
        "a, from scratch, seed 1",
    ]
    assert [cell.found_by for cell in cells[4:]] == [cells[0].name, cells[2].name]
    assert [len(entry.cells) for entry in entries] == [2, 2]
    assert [len(entry.baselines) for entry in entries] == [2, 0]
    assert [cell.settings["seed"] for cell in cells[:4]] == [0, 0, 1, 1]
    assert [cell.settings["growth"]["interval"] for cell in cells[:4]] == [6, 5, 6, 5]


def test_rows_that_compute_the_same_share_their_cells_across_sections():
    same = {"growth.interval": 6, "log.progress": True}  # The first is the default.
    study = Study(
        "Two", [_section([Row(("a",), DIGITS)], "One"), _section([Row(("b",), DIGITS, same)], "2")]
    )
    cells, entries = expand(study)
    assert len(cells) == 3
    assert entries[0].cells == entries[1].cells


def test_names_change_with_what_is_computed_and_with_nothing_else(monkeypatch):
    def name(**overrides):
        return expand(_study(Row(("a",), DIGITS, overrides)))[0][0].name

    base = name()
    assert name(**{"data.dir": "elsewhere", "checkpoint.every": 7}) == base
    assert name(**{"growth.interval": 4}) != base
    # A key of a later version, at its default.
    interval = KEYS["growth.interval"]
    today = Settings.to_dict
    monkeypatch.setattr(cells_lib, "all_keys", lambda: KEYS | {"growth.later": interval})
    monkeypatch.setattr(
        Settings, "to_dict", lambda self: nest(flatten(today(self)) | {"growth.later": later})
    )
    later = interval.default
    assert name() == base
    later += 1
    assert name() != base


def test_a_baseline_trains_the_net_that_was_found():
    settings = {"finetune.epochs": 7}
    cells, _ = expand(_study(Row(("a",), DIGITS, scratch=settings), seeds=(3,)))
    found = cells[1].completed({"model.depths": (4, 3, 3)})
    assert (found["mode"], found["model"]["depths"]) == ("scratch", (4, 3, 3))
    assert (found["finetune"]["epochs"], found["seed"]) == (7, 3)
    assert found["model"]["family"] == cells[0].settings["model"]["family"]


def test_a_row_can_start_from_the_net_of_another_seed_by_seed(tmp_path):
    start = Row(("before",), DIGITS, {"data.classes": "0,1"})
    row = Row(("after",), DIGITS, scratch={}, start=start)
    cells, entries = expand(_study(row, Row(("anew",), DIGITS)))
    assert [cell.label for cell in cells] == [
        *(f"{row}, seed {seed}" for seed in (0, 1) for row in ("before", "anew")),
        *(f"after{how}, seed {seed}" for how in ("", ", from scratch") for seed in (0, 1)),
    ]
    first, follows, baseline = cells[0], cells[4], cells[6]
    assert (follows.found_by, follows.starts) == (first.name, True)
    assert (baseline.found_by, baseline.starts) == (follows.name, False)
    found = follows.completed({"init_from": str(Folder(tmp_path, follows).found)})
    assert found["init_from"] == str(tmp_path / "cells" / first.name / "run")
    assert follows.name not in [cell.name for cell in entries[1].cells]
    with pytest.raises(UserError, match="row after, where again starts, has a start too"):
        Row(("again",), start=row)


def test_a_run_in_a_study_leaves_no_report_unless_it_is_asked_for():
    cells, _ = expand(_study(Row(("a",), DIGITS), Row(("b",), DIGITS, {"log.report": True})))
    assert not cells[0].settings["log"]["report"]
    assert not cells[0].settings["log"]["tensorboard"]


def test_changes_and_seeds_of_the_command_line_win():
    study = _study(Row(("a",), DIGITS, {"growth.interval": 5}, scratch={"data.fraction": 0.5}))
    cells, _ = expand(study, {"growth.interval": 2, "data.fraction": 0.1}, (7,))
    assert [cell.seed for cell in cells] == [7, 7]
    assert cells[0].settings["growth"]["interval"] == 2
    assert cells[1].settings["data"]["fraction"] == 0.1


def test_a_section_can_have_seeds_of_its_own():
    study = Study("A", [_section([Row(("a",), DIGITS)], seeds=(5,))], seeds=(0, 1, 2))
    assert [cell.seed for cell in expand(study)[0]] == [5]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Row("plain", DIGITS), r"names are 'plain'; give a tuple"),
        (lambda: Row(("a",), DIGITS, {"growth.intervall": 1}), "did you mean 'growth.interval'"),
        (lambda: Row(("a",), DIGITS, {"seed": 1}), "overrides 'seed'"),
        (lambda: _section([]), "'Some' has no rows"),
        (lambda: Section("S", ("x", "y"), [Row(("a",))]), "one name for each column"),
        (lambda: _section([Row(("a",))], x="K"), "x is 'K', not one of"),
        (lambda: Study("A", []), "has no sections"),
        (lambda: _study(Row(("a",)), seeds=(1, 1)), "each once"),
        (lambda: _study(Row(("a",)), seeds=()), "at least one"),
        (lambda: Study("A", [_section([Row(("a",))])] * 2), "two sections are called 'Some'"),
        (
            lambda: expand(_study(Row(("a",), DIGITS, {"growth.interval": 0}))),
            r"section 'Some', row 'a': config.growth.interval is 0",
        ),
        (lambda: expand(_study(Row(("a",), "nowhere.py"))), "row 'a': no config file nowhere.py"),
        (lambda: expand(_study(Row(("a",), DIGITS, {"mode": "evaluate"}))), "trains nothing"),
        (lambda: expand(_study(Row(("a",))), {"seed": 1}), "--seeds"),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_a_record_reads_what_the_run_left(tmp_path):
    cell = expand(_study(Row(("a",), DIGITS)))[0][0]
    assert read_record(cell, tmp_path).state == "missing"
    write_finished(Folder(tmp_path, cell).run, test_accuracy=90.0)
    record = read_record(cell, tmp_path)
    assert (record.state, record.depths, record.accuracy) == ("done", (2, 1, 1), 90.0)
    # One block more: a 3x3 convolution of 16 channels at 8x8, twice its multiply-adds.
    block = 2 * 8 * 8 * 9 * 16 * 16
    assert record.flops is not None
    assert record.training_flops == 3 * 100 * (2 * record.flops - block)
    metrics = Folder(tmp_path, cell).run / "metrics.jsonl"
    metrics.write_text(metrics.read_text().splitlines(keepends=True)[0])
    assert read_record(cell, tmp_path).training_flops is None  # Not that of one epoch.


def test_the_paper_reports_the_best_epoch_on_the_test_set(tmp_path):
    cell = expand(_study(Row(("a",), DIGITS, {"data.validation": "test"})))[0][0]
    write_finished(Folder(tmp_path, cell).run, validation="test")
    assert read_record(cell, tmp_path).accuracy == 95.0


def test_a_record_of_what_failed_or_is_damaged(tmp_path):
    cell, other = expand(_study(Row(("a",), DIGITS)))[0]
    write_finished(Folder(tmp_path, cell).run)
    Folder(tmp_path, cell).error.write_text("no memory\n")
    failed = read_record(cell, tmp_path)
    assert (failed.state, failed.error, failed.accuracy) == ("failed", "no memory", None)
    run = Folder(tmp_path, other).run
    write_finished(run, depths=None)
    assert read_record(other, tmp_path).state == "failed"
    (run / "result.json").write_text("{")
    assert (Folder(tmp_path, other).state, read_record(other, tmp_path).state) == ("failed",) * 2


def test_a_run_of_another_versions_defaults_is_not_taken_for_the_cells(tmp_path):
    cells, _ = expand(_study(Row(("a",), DIGITS, scratch={}), seeds=(0,)))
    for cell, found in zip(cells, ({}, {"model.depths": (2, 1, 1)}), strict=True):
        folder = Folder(tmp_path, cell)
        write_finished(folder.run)
        # As the run writes them: with what was found, and what the machine decided.
        config = flatten(cell.settings) | {"model.convolution": "xla"} | found
        was = config["growth.interval"]
        for interval, state in ((was, "done"), (was + 1, "failed")):
            changed = nest(config | {"growth.interval": interval, "data.dir": "elsewhere"})
            (folder.run / "config.json").write_text(json.dumps(changed))
            assert (folder.state, read_record(cell, tmp_path).state) == (state, state)
        assert f"growth.interval: {was + 1} -> {was}" in folder.why_failed()
        assert f"delete {folder.root}" in folder.why_failed()
        (folder.run / "config.json").write_text("{")
        assert "damaged" in folder.why_failed()


def test_what_the_machine_made_of_native_convolutions_fails_no_cell(tmp_path):
    """As on a GPU, where they are XLA's; asked for as XLA's they have to be."""
    for asked, counts in (("native", True), ("auto", True), ("xla", False)):
        row = Row(("a",), DIGITS, {"model.convolution": asked})
        (cell,) = expand(_study(row, seeds=(0,)))[0]
        folder = Folder(tmp_path / asked, cell)
        write_finished(folder.run)
        was = {"model.convolution": "xla" if counts else "native"}
        config = nest(flatten(cell.settings) | was)
        (folder.run / "config.json").write_text(json.dumps(config))
        assert folder.is_done == counts, asked


def test_a_baseline_counts_while_its_finder_has_the_depths_it_was_trained_at(tmp_path):
    start = Row(("before",), DIGITS, {"data.classes": "0,1"})
    row = Row(("a",), DIGITS, scratch={}, start=start)
    first, after, baseline = expand(_study(row, seeds=(0,)))[0]
    for cell, found in ((first, (1, 1, 1)), (after, (2, 1, 1)), (baseline, (4, 3, 3))):
        folder = Folder(tmp_path, cell)
        write_finished(folder.run, depths=(2, 1, 1) if cell is first else (4, 3, 3))
        told = {"model.depths": found} | ({"init_from": "/there"} if cell is after else {})
        config = resolve(cell.completed(told)).to_dict()
        (folder.run / "config.json").write_text(json.dumps(config))
    folders = [Folder(tmp_path, cell) for cell in (first, after, baseline)]
    assert [folder.why_failed() for folder in folders] == ["", "", ""]
    for finder, follower in itertools.pairwise(folders):
        before = (finder.run / "result.json").read_text()
        (finder.run / "result.json").write_text(json.dumps({"depths": [9, 9, 9]}))
        assert follower.state == "failed" and "-> (9, 9, 9)" in follower.why_failed()
        (finder.run / "result.json").write_text(before)


def test_what_the_rows_of_a_section_differ_in_cannot_be_changed_for_all():
    """Each would bear its name, and the paper's numbers, over the same run."""
    rows = Row(("5",), DIGITS, {"growth.interval": 5}), Row(("by default",), DIGITS)
    with pytest.raises(UserError, match=r"section 'Some': its rows differ in growth\.interval, so"):
        expand(_study(*rows), {"growth.interval": 2})
    expand(_study(*rows), {"finetune.epochs": 2})
    # Shorter they may be, where each stays another.
    lengths = [Row((str(n),), DIGITS, {"finetune.epochs": n, "growth.interval": n}) for n in (8, 9)]
    expand(_study(*lengths), {"finetune.epochs": 2})
    short = [Row((str(n),), DIGITS, {"finetune.epochs": n}) for n in (8, 9)]
    with pytest.raises(UserError, match=r"differ in finetune\.epochs"):
        expand(_study(*short), {"finetune.epochs": 2})
    expand(_study(Row(("a",), DIGITS, {"finetune.epochs": 3})), {"finetune.epochs": 2})


@pytest.mark.parametrize(
    "rows, changes",
    [
        # By their config files.
        (["mnist_plain3", "svhn_basic3"], {"data.name": "digits"}),
        (["mnist_plain3", "mnist_basic3"], {"model.family": "plain4"}),
        (["mnist_plain3", "svhn_plain3"], {"data.name": "digits"}),
    ],
)
def test_nor_can_what_their_config_files_differ_in(rows, changes):
    study = _study(*(Row((name,), f"configs/{name}.py") for name in rows))
    with pytest.raises(UserError, match=f"its rows differ in {next(iter(changes))}, so"):
        expand(study, changes)
    expand(study, {"data.batch_size": 64})


def test_nor_what_a_row_and_its_start_differ_in():
    start = Row(("before",), DIGITS, {"data.classes": "0,1"})
    study = _study(Row(("after",), DIGITS, start=start))
    with pytest.raises(UserError, match=r"its rows differ in data\.classes, so"):
        expand(study, {"data.classes": "2,3"})
    expand(study, {"data.batch_size": 32})


def test_cells_are_values():
    cell = expand(_study(Row(("a",), DIGITS)))[0][0]
    assert dataclasses.replace(cell) == cell
