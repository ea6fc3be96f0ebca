"""The table of the paper's poster: its cells, their commands, and runs that are kept for it."""

import json
import shlex
import shutil

import pytest

from autogrow_jax.build import resolve
from autogrow_jax.errors import UserError
from autogrow_jax.main import parse_arguments
from autogrow_jax.settings import FREE_KEYS, flatten, nest
from autogrow_jax.settings_files import load_config
from benchmarks import poster
from benchmarks.poster import find_line, keep, list_lines, make_rows, make_table, read_kept


@pytest.fixture(scope="module")
def lines():
    return list_lines()


def _find(lines, name):
    return next(line for line in lines if line.name == name)


def test_the_table_has_all_cells_of_the_poster_and_two_controls(lines):
    titles = [line.title for line in lines]
    counts = [titles.count(title) for title in dict.fromkeys(titles)]
    assert counts == [20, 16, 12, 12]
    assert [line.published is not None for line in lines] == [True] * 36 + [False] * 24
    quarter = _find(lines, "mnist_plain3_25")
    assert quarter.names[:5] == ("Plain3Net", "MNIST", "25 %", "12", "100")
    assert (quarter.published.depths, quarter.published.accuracy) == ((10, 9, 9), 99.33)
    # At 100 % both tables have the same run; all others are another.
    names = {line.name for line in lines}
    assert len(names) == len(lines) - 4


def test_a_command_computes_its_cell(lines):
    configs = {}
    for row, line in zip(make_rows(lines, []), lines, strict=True):
        for kind, command in row["commands"].items():
            program, mode, *arguments = shlex.split(command.replace("DEPTHS", "3,2,2"))
            assert (program, mode) == ("autogrow", "train")
            given = parse_arguments(arguments)
            file = given.config
            config = configs.setdefault(file, flatten(load_config(file)))
            if kind == "scratch":
                assert given.changes.pop("mode") == "scratch"
                assert given.changes.pop("model.depths") == (3, 2, 2)
            found = flatten(resolve(nest(config | given.changes)).to_dict())
            assert {k for k in found if found[k] != line.settings[k]} <= FREE_KEYS


def _write(folder, line, seed, *, best, phases, depths, is_done, **changes):
    folder.mkdir()
    config = line.settings | {"seed": seed, "data.dir": "/home/me/data", **changes}
    (folder / "config.json").write_text(json.dumps(nest(config)))
    epochs = [
        {"epoch": i, "phase": phase, "depths": depths, "validation_accuracy": best - (i != 1)}
        for i, phase in enumerate(phases)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(e) + "\n" for e in epochs))
    if is_done:
        result = {"test_accuracy": best - 0.25, "epochs": len(phases), "depths": depths}
        result |= {"seconds": {"total": 7200.0}, "dataset": "mnist", "class_names": ["T-shirt/top"]}
        (folder / "result.json").write_text(json.dumps(result))


@pytest.mark.slow
def test_runs_stand_beside_the_papers_numbers(lines, tmp_path, capsys):
    line, root = _find(lines, "mnist_plain3_25"), tmp_path / "poster"
    grown = ["growth"] * 4 + ["finetune"] * 3
    _write(tmp_path / "a", line, 0, best=99.5, phases=grown, depths=[4, 4, 3], is_done=True)
    scratch = {"mode": "scratch", "model.depths": [4, 4, 3]}
    how = {"phases": ["scratch"] * 5, "depths": [4, 4, 3], "is_done": True}
    _write(tmp_path / "b", line, 0, best=99.25, **how, **scratch)
    _write(tmp_path / "c", line, 1, best=98.0, phases=grown, depths=[5, 4, 4], is_done=False)
    _write(tmp_path / "d", line, 2, best=97.0, phases=grown[:4], depths=[2, 2, 2], is_done=False)
    folders = [str(tmp_path / name) for name in "abcd"]
    assert poster.main(["--root", str(root), "--commit", "abc1234", "--keep", *folders]) == 0
    assert "wrote" in capsys.readouterr().out
    kept = sorted(path.name for path in (root / "runs").iterdir())
    seeds = ["_scratch_seed0", "_seed0", "_seed1", "_seed2"]
    assert kept == [f"mnist_plain3_25{seed}" for seed in seeds]
    text = (root / "README.md").read_text()
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in text.splitlines()]
    start = [*("Plain3Net", "MNIST", "25 %", "12", "100", "5-4-4", "10-9-9", "99.33")]
    found = [row[8:] for row in rows if row[:8] == start]
    assert found == [
        ["4-4-3", "99.50", "99.25", "+0.25", "0", "the test set", "finished"],
        ["5-4-4", "98.00", "", "", "1", "the test set", "under way"],
        ["2-2-2", "97.00", "", "", "2", "the test set", "under way"],
    ]
    assert "4 epochs of growth, 7 in all; 2 h 00 min" in text
    assert (
        "5-4-4 after 4 epochs of growth, fine-tuning at epoch 3 of 200; of commit abc1234" in text
    )
    assert "2-2-2, growing, after 4 epochs" in text
    assert "--config.mode=scratch --config.model.depths=4,4,3 " in text
    assert "1 are finished; 2 under way" in text
    # Nothing of the machine; and what is kept is read as what it was.
    assert not any("/home" in path.read_text() for path in root.rglob("*.json*"))
    again = [find_line(read_kept(path), lines) for path in sorted((root / "runs").iterdir())]
    assert again == [(line, True), (line, False), (line, False), (line, False)]


def test_a_run_of_before_a_key_was_there_is_of_its_cell(lines, tmp_path):
    how = {"best": 99.0, "phases": ["growth"], "depths": [1, 1, 1], "is_done": False}
    line = _find(lines, "mnist_plain3_50")
    _write(tmp_path / "old", line, 0, **how)
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    assert config["finetune"].pop("front") is False  # Not the default.
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    assert find_line(read_kept(tmp_path / "old"), lines) == (line, False)


@pytest.mark.slow
def test_what_is_no_cell_is_refused_with_the_keys_that_differ(lines, tmp_path, capsys):
    how = {"best": 99.0, "phases": ["growth"], "depths": [1, 1, 1], "is_done": False}
    line = _find(lines, "svhn_plain4_50_k_fixed")
    _write(tmp_path / "other", line, 0, **how, **{"growth.threshold": 0.1})
    assert poster.main(["--root", str(tmp_path / "t"), "--keep", str(tmp_path / "other")]) == 1
    told = capsys.readouterr().err
    assert "the nearest is Plain4Net SVHN 50 % 3 100" in told
    assert told.endswith("differs in growth.threshold: 0.1, not 0.05\n")
    with pytest.raises(UserError, match="no epoch of a run"):
        (tmp_path / "empty").mkdir()
        keep(tmp_path / "empty", tmp_path / "t")
    _write(tmp_path / "path", line, 0, **how, **{"data.name": "svhn"})
    epoch = {"epoch": 0, "phase": "growth", "depths": [1, 1, 1, 1], "note": "npz:/tmp/x"}
    (tmp_path / "path" / "metrics.jsonl").write_text(json.dumps(epoch) + "\n")
    with pytest.raises(UserError, match="a path of this machine"):
        keep(tmp_path / "path", tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_the_table_is_of_the_files_beside_it(tmp_path):
    """After a change of either, run `python -m benchmarks.poster`."""
    shutil.copytree(poster.ROOT / "runs", tmp_path / "runs")
    for made in make_table(tmp_path):
        assert made.read_text() == (poster.ROOT / made.name).read_text()
