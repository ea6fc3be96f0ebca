"""The command line of studies."""

import json
import subprocess
import sys

import pytest
from stand_ins import write_finished

from autogrow_jax.settings_files import load_study
from autogrow_jax.studies.__main__ import main, parse_arguments
from autogrow_jax.studies.cells import Folder, expand
from autogrow_jax.studies.runner import run_cell

STUDY = """
from autogrow_jax.studies import Row, Section, Study

SMALL = {
    "data.fraction": 0.2,
    "growth.interval": 1,
    "growth.window": 1,
    "growth.max_epochs": 1,
    "growth.capacity": 2,
    "finetune.epochs": 1,
    "finetune.front": False,
}


def get_study(rate="0.02"):
    rates = {"optimizer.learning_rate": float(rate)}
    rows = [
        Row(("good",), "configs/digits_plain3.py", SMALL),
        Row(("other",), "configs/digits_plain3.py", rates | SMALL),
    ]
    return Study("Two rows", [Section("Rates", ("row",), rows)], seeds=(0,))
"""


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "two.py"
    path.write_text(STUDY)
    return path


def test_the_list_has_a_line_for_each_cell(study, tmp_path, capsys):
    assert main([f"--study={study}:0.02", f"--workdir={tmp_path}", "--list", "--seeds=0,4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [[str(n), "missing"] for n in range(4)]
    assert "other, seed 4" in lines[3]


@pytest.mark.parametrize("cell", ["", "2", "other"])
def test_a_cell_that_is_none_is_refused(study, tmp_path, capsys, cell):
    """Above all the empty name, of a job array's variable that is not set."""
    assert main([f"--study={study}:0.02", f"--workdir={tmp_path}", f"--cell={cell}"]) == 1
    assert f"--cell is {cell!r}; the cells are 0 to 1" in capsys.readouterr().err


def test_a_table_is_made_of_whatever_has_finished(study, tmp_path, capsys):
    cells, _ = expand(load_study(f"{study}:0.02"))
    write_finished(Folder(tmp_path, cells[0]).run)
    arguments = [f"--study={study}:0.02", f"--workdir={tmp_path}", "--table"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "91.25" in out and "2-1-1" in out and "held-out" in out and "1.2.3" in out
    for name in ("table.txt", "table.md", "table.csv", "table.json"):
        assert "91.25" in (tmp_path / name).read_text()
    assert {path.suffix for path in (tmp_path / "plots").iterdir()} == {".png", ".svg"}

    folder = Folder(tmp_path, cells[1])
    folder.root.mkdir(parents=True)
    folder.error.write_text("it diverged\n")
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert "it diverged" in captured.out and "91.25" in captured.out
    assert "other, seed 0 failed: it diverged" in captured.err


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        ([], 2, "--study=FILE is missing"),
        (["--study=configs/studies/smok.py"], 1, "did you mean configs/studies/smoke.py"),
        (["--study=STUDY", "--worker=2"], 2, "did you mean --workers"),
        (["--study=STUDY", "--config.growth.intervall=2"], 2, "did you mean 'growth.interval'"),
        (["--study=STUDY", "--config.seed=2"], 1, "use --seeds"),
        (["--study=STUDY", "--seeds=1,1"], 1, "each once"),
        (["--study=STUDY", "--seeds="], 2, "it takes whole numbers with commas between"),
        (["--study=STUDY", "--max-jobs=x"], 2, "'x'; it takes a whole number of at least 1"),
        (["--study=STUDY", "--job={"], 2, "{; it takes a JSON object"),
        (["--study=STUDY", "--cell=9"], 1, "the cells are 0 to 1"),
        (["--study=STUDY", "--workers=0"], 1, "--workers is 0"),
        (["--study=STUDY", "--workers=two"], 2, "invalid int value: 'two'"),
        (["--study=configs/digits_plain3.py", "--list"], 1, "has no function get_study()"),
        (["--study=BROKEN", "--list"], 1, "line 1: ZeroDivisionError"),
        (["--study=WRONG", "--list"], 1, "returned int, not an autogrow_jax.studies.Study"),
    ],
)
def test_mistakes(study, tmp_path, capsys, arguments, status, message):
    files = {"STUDY": study}
    for name, text in (("BROKEN", "1 / 0"), ("WRONG", "def get_study():\n    return 3\n")):
        files[name] = tmp_path / f"{name}.py"
        files[name].write_text(text)
    for name, path in files.items():
        arguments = [argument.replace(name, str(path)) for argument in arguments]
    assert main([*arguments, f"--workdir={tmp_path}"]) == status
    assert message in capsys.readouterr().err


def test_a_worker_finds_the_same_cells(study):
    given = [f"--study={study}", "--seeds=3", "--workers=2", "--config.model.depths", "2-1-1"]
    options = parse_arguments([*given, "--config.log.progress"])
    again = parse_arguments(options.of_worker)
    assert again.changes == options.changes == {"model.depths": (2, 1, 1), "log.progress": True}
    assert (again.study, again.seeds, again.workers) == (options.study, (3,), 1)


@pytest.mark.slow
def test_a_study_from_its_command_to_its_table(study, tmp_path):
    """One row fails, and is the only one that a second start with a better rate runs."""
    command = [sys.executable, "-m", "autogrow_jax.studies", f"--workdir={tmp_path}", "--workers=2"]
    first = subprocess.run([*command, f"--study={study}:1e9"], capture_output=True, text=True)
    assert first.returncode == 1
    assert "FAILED  other, seed 0: the loss is not finite" in first.stderr
    assert "done    good, seed 0: 2-1-1" in first.stderr
    second = subprocess.run([*command, f"--study={study}:0.02"], capture_output=True, text=True)
    assert second.returncode == 0, second.stderr
    assert "2 cells, 1 done before" in second.stderr
    rows = json.loads((tmp_path / "table.json").read_text())
    assert rows


@pytest.mark.slow
@pytest.mark.usefixtures("optax_promotion", "quick_compilation")
def test_every_cell_of_the_smoke_study_runs_and_is_in_its_tables(tmp_path, capsys, monkeypatch):
    """In this process, which starts once, for a third of the epochs, and none compiles ahead."""
    monkeypatch.setattr("autogrow_jax.studies.runner.keep_in", lambda root: root)
    command = ["--study=configs/studies/smoke.py", f"--workdir={tmp_path}", "--seeds=0"]
    command += ["--config.finetune.total_epochs=8", "--config.finetune.epochs=2"]
    command += ["--config.growth.compile_ahead=false"]
    options = parse_arguments(command)
    cells, _ = expand(load_study(options.study), options.changes, options.seeds)
    assert len(cells) > 20
    for cell in cells:
        run_cell(cell, tmp_path)
    assert main(command) == 0
    told = capsys.readouterr()
    assert f"{len(cells)} cells, {len(cells)} done before" in told.err
    assert "failed" not in told.out and "not run" not in told.out
    tables = json.loads((tmp_path / "table.json").read_text())
    assert len(list((tmp_path / "plots").glob("*.svg"))) == len(tables["tables"])
