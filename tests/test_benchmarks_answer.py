"""Growth against a sweep: what was spent is counted by hand, and searches are played back."""

import functools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from autogrow_jax.models import build_network, estimate_cost
from autogrow_jax.settings_files import load_study
from autogrow_jax.studies.cells import Folder, expand
from benchmarks import answer, answer_tables, choice
from benchmarks.answer_figure import find_front
from benchmarks.depth_search import Found, halve, optuna_search, sweep

FOLDER = Path(__file__).resolve().parents[1] / "configs" / "studies"
# Of six nets, the cheapest first; after each of eight epochs.
CURVES = [[60] * 7 + [80], [70] * 8, [50] * 7 + [90], [75] * 8, [74] * 8, [73] * 8]
IMAGES, EPOCHS = 100, 8


class _Nets:
    """Trains by heart, and checks that epochs come in their order and once."""

    def __init__(self):
        self.trained = [0] * len(CURVES)

    def __call__(self, place, epoch):
        assert epoch == self.trained[place]
        self.trained[place] += 1
        return float(CURVES[place][epoch])


def test_a_sweep_trains_all_and_keeps_the_cheapest_within_a_standard_error():
    assert sweep(_Nets(), 6, EPOCHS, IMAGES) == Found(2, [8] * 6)
    # Of 90 % on 9 images it is 10.8 points.
    assert sweep(_Nets(), 6, EPOCHS, 9) == Found(0, [8] * 6)


def test_halving_goes_on_with_the_better_half_where_it_was_left():
    nets = _Nets()
    found = halve(nets, 6, EPOCHS)
    # After 2 epochs 3, 4, 5 are ahead, and after 4 of these 3 alone. Net 2 was dropped too early.
    assert found == Found(3, [2, 2, 2, 8, 4, 4])
    assert found.epochs == nets.trained


def test_optuna_pays_for_no_epoch_twice_and_takes_its_best_trial():
    pytest.importorskip("optuna")
    nets = _Nets()
    found = optuna_search(nets, 6, EPOCHS, 6, seed=0)
    assert found.epochs == nets.trained
    finals = [CURVES[place][-1] for place in range(6) if found.epochs[place] == EPOCHS]
    assert CURVES[found.place][-1] == max(finals)
    assert found == optuna_search(_Nets(), 6, EPOCHS, 6, seed=0)


def _net(right, flops, seed):
    """Has so many of 1,000 images right, with a chance of 0.8 for what it answers."""
    labels = np.arange(1000) % 4
    answers = np.where(np.random.default_rng(seed).permutation(1000) < right, labels, labels - 1)
    chances = np.full((1000, 4), 0.2 / 3)
    chances[np.arange(1000), answers] = 0.8
    return choice.Net(np.log(chances), labels, flops)


def test_rules_choose_by_images_that_are_drawn_and_are_judged_by_the_others():
    nets = [_net(500, 10**6, 0), _net(900, 2 * 10**6, 1), _net(905, 9 * 10**6, 2)]
    found = {rule.split(":")[0]: told for rule, *told in choice.play([nets], 500, 20)}
    for rule in ("one_se", "one_se_brier"):  # They ask for more than luck.
        assert 2.0 <= found[rule][1] < found["best"][1], rule
    accuracy, flops = found["best"]
    assert 89.5 < accuracy < 90.0 and 2.0 < flops <= 9.0
    better = [*nets[:2], _net(960, 9 * 10**6, 1)]
    assert {flops for *_, flops in choice.play([better], 500, 20)} == {9.0}
    drawn, *_ = choice.play([[_net(1000, 10**6, 0)]], 500, 2)
    assert drawn[1:] == (100.0, 1.0)
    # Of two nets alike but for luck the luckier on what is drawn is the unluckier on the rest.
    luck = [_net(500, 10**6, 0), _net(500, 2 * 10**6, 1)]
    assert {rule: a for rule, a, _ in choice.play([luck], 500, 200)}["best: accuracy"] < 50.0


def test_the_front_is_of_those_that_no_other_beats():
    points = [(3.0, 90.0), (1.0, 80.0), (2.0, 80.0), (1.0, 70.0), (4.0, 95.0), (5.0, 94.0)]
    assert find_front(points) == [(1.0, 80.0), (3.0, 90.0), (4.0, 95.0)]


# --- From the files of runs.


@functools.cache
def _small():
    return load_study(str(FOLDER / "answer_small.py"))


def _flops(depths):
    return estimate_cost(build_network("plain3", depths, 10, 1), (8, 8, 1)).flops


def _write(workdir, cell, depths, lines, test):
    run = Folder(workdir, cell).run
    run.mkdir(parents=True)
    text = "".join(json.dumps({"epoch": i, **line}) + "\n" for i, line in enumerate(lines))
    (run / "metrics.jsonl").write_text(text)
    result = {
        "depths": depths,
        "test_accuracy": test,
        "best_validation_accuracy": 90.0,
        "epochs": len(lines),
        "num_params": 7,
        "versions": {},
        "validation": "held-out",
        "validation_examples": IMAGES,
        "test_examples": 359,
        "image_shape": [8, 8, 1],
        "num_classes": 10,
        "seconds": {"total": 10.0 + len(lines), "compile": 1.0},
    }
    (run / "result.json").write_text(json.dumps(result))


def _line(depths, accuracy=50.0):
    known = {"train_images": 1000, "seconds": 1.0, "validation_accuracy": accuracy}
    return {"depths": depths, **known}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """One seed: growth through a front of three nets, and the six nets from scratch."""
    folder = tmp_path_factory.mktemp("answer")
    cells, entries = expand(_small(), seeds=(0,))
    own = {entry.row.names[0]: cell for entry, cell in zip(entries, cells, strict=True)}
    grown = [[1, 1, 1], [2, 1, 1], [2, 2, 1]]
    tuned = [[2, 2, 1], [1, 1, 1], [2, 2, 1], [2, 1, 1]]
    _write(folder, own["default"], [2, 1, 1], [_line(d) for d in (*grown, *tuned)], 88.0)
    for place, blocks in enumerate((1, 2, 3, 5, 8, 12)):
        lines = [_line([blocks] * 3, float(accuracy)) for accuracy in CURVES[place]]
        _write(folder, own[str(blocks)], [blocks] * 3, lines, 80.0 + place)
    return folder


def _outcomes(workdir):
    _, entries = expand(_small(), seeds=(0,))
    return {outcome.method: outcome for outcome in answer.read_outcomes(entries, workdir)}


def test_growth_costs_all_its_epochs_each_at_its_depths(workdir):
    """Three passes for each image; epochs are those of growth and of every net of the front."""
    epochs = {(1, 1, 1): 2, (2, 1, 1): 2, (2, 2, 1): 3}
    by_hand = sum(3 * 1000 * number * _flops(depths) for depths, number in epochs.items())
    found = _outcomes(workdir)[answer_tables.DEFAULT]
    assert found.training_flops == pytest.approx(by_hand, rel=1e-12)
    assert (found.depths, found.flops, found.seconds) == ((2, 1, 1), _flops((2, 1, 1)), 17.0)


def test_a_net_whose_epochs_are_not_all_known_is_left_out(workdir, tmp_path, capsys):
    copy = shutil.copytree(workdir, tmp_path / "copy")
    _, entries = expand(_small(), seeds=(0,))
    (cell,) = next(entry.cells for entry in entries if entry.row.names[0] == "8")
    metrics = Folder(copy, cell).run / "metrics.jsonl"
    metrics.write_text("\n".join(metrics.read_text().splitlines()[:3]) + "\n")
    found = _outcomes(copy)
    assert "from scratch, 8 a stage" not in found and answer_tables.SWEEP not in found
    assert "left out: 8, seed 0: its metrics.jsonl lacks epochs" in capsys.readouterr().err


def test_a_run_that_failed_is_left_out_with_the_reason(workdir, tmp_path, capsys):
    copy = shutil.copytree(workdir, tmp_path / "copy")
    _, entries = expand(_small(), seeds=(0,))
    (cell,) = next(entry.cells for entry in entries if entry.row.names[0] == "8")
    Folder(copy, cell).fail("no memory left")
    assert "from scratch, 8 a stage" not in _outcomes(copy)
    assert "left out: 8, seed 0: no memory left" in capsys.readouterr().err


def test_a_sweep_costs_the_sum_of_its_nets_and_halving_what_it_trained(workdir):
    found = _outcomes(workdir)
    epoch = [3 * 1000 * _flops((n, n, n)) for n in (1, 2, 3, 5, 8, 12)]
    swept = found[answer_tables.SWEEP]
    assert swept.training_flops == pytest.approx(8 * sum(epoch), rel=1e-12)
    assert (swept.depths, swept.test_accuracy, swept.seconds) == ((3, 3, 3), 82.0, 6 * 18.0)
    halved = found["successive halving"]
    by_hand = sum(n * cost for n, cost in zip([2, 2, 2, 8, 4, 4], epoch, strict=True))
    assert halved.training_flops == pytest.approx(by_hand, rel=1e-12)
    assert (halved.depths, halved.test_accuracy, halved.seconds) == ((5, 5, 5), 83.0, 60.0 + 22.0)


def test_the_table_says_what_was_reached_and_what_not(workdir, tmp_path, capsys):
    study = str(FOLDER / "answer_small.py")
    assert answer.main([f"--study={study}", f"--workdir={workdir}", f"--out={tmp_path}"]) == 0
    table = (tmp_path / "table.md").read_text()
    assert table in capsys.readouterr().out
    assert "7 of 27 runs are done" in table
    assert "| growth, the default | 1 | 2-1-1 | 88.00 |" in table
    assert "+6.00 points against the sweep's" in table
    assert "NOT reached" not in table
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"table.md", "table.json", "answer.png", "answer.svg"}


def test_what_ran_elsewhere_stays_where_it_is_added_to(workdir, tmp_path):
    """A table of seed 1 and of an earlier default of seed 0; the workdir has seed 0."""
    study, out = str(FOLDER / "answer_small.py"), tmp_path / "out"
    arguments = [f"--study={study}", f"--workdir={workdir}", f"--out={out}"]
    assert answer.main(arguments) == 0
    (title, rows), *_ = json.loads((out / "table.json").read_text()).items()
    elsewhere = [row | {"seed": 1, "test_accuracy": 70.0} for row in rows]
    own = answer_tables.DEFAULT
    elsewhere += [row | {"test_accuracy": 1.0} for row in rows if row["method"] == own]
    (out / "table.json").write_text(json.dumps({title: elsewhere}))
    assert answer.main([*arguments, "--add"]) == 0
    added = json.loads((out / "table.json").read_text())[title]
    assert [row for row in added if row["seed"] == 0] == rows
    assert [row for row in added if row["seed"] == 1] == elsewhere[: len(rows)]
    table = (out / "table.md").read_text()
    assert "14 of 27 runs are done" in table
    assert answer.main([*arguments, "--add", "--seeds=0"]) == 0
    assert "7 of 9 runs are done" in (out / "table.md").read_text()
    assert "| growth, the default | 2 | 2-1-1 | 79.00 ± 12.73 |" in table
    assert answer.main(arguments) == 0 and json.loads((out / "table.json").read_text()) == {
        title: rows
    }


def test_a_set_or_net_that_has_not_run_here_stays_where_it_is_added_to(workdir, tmp_path):
    """Such as plain3's part of a table, where basic3 runs in another place."""
    study, out = str(FOLDER / "answer_small.py"), tmp_path / "out"
    arguments = [f"--study={study}", f"--workdir={workdir}", f"--out={out}", "--add"]
    out.mkdir()
    assert answer.main(arguments) == 0  # To a folder without a table.
    ((title, rows),) = json.loads((out / "table.json").read_text()).items()
    older = [{name: row[name] for name in row if name != "num_test"} for row in rows]
    before = {"Another net": rows, "An older one": older}
    (out / "table.json").write_text(json.dumps(before))
    assert answer.main(arguments) == 0
    added = json.loads((out / "table.json").read_text())
    assert list(added) == ["Another net", "An older one", title]
    assert added["Another net"] == added[title] == rows
    table = (out / "table.md").read_text()
    assert "7 of 27 runs are done" in table  # Of the study's own.
    assert table.count("+6.00 points against the sweep's") == 2
    assert table.count("How many images the test set has is not known") == 1


def test_what_is_added_stands_among_its_kind():
    def outcome(method):
        return answer_tables.Outcome(method, 0, (1, 1, 1), 80.0, 1.0, 1.0, 1, 1)

    before = [outcome(name) for name in ("growth, the default", "from scratch, 1 a stage", "sweep")]
    added = answer.add_to(before, [outcome("growth, the paper's periodic")])
    kinds = [each.method.partition(",")[0] for each in added]
    assert kinds == ["growth", "growth", "from scratch", "sweep"]
    assert added[0].method == "growth, the default"


def test_all_parts_stand_in_one_table_with_what_is_not_reached_in_bold(workdir, tmp_path, capsys):
    """Of two seeds one has no sweep: it does not count, not for the fixed net either."""
    study = str(FOLDER / "answer_small.py")
    assert answer.main([f"--study={study}", f"--workdir={workdir}", f"--out={tmp_path}/a"]) == 0
    ((title, rows),) = json.loads((tmp_path / "a" / "table.json").read_text()).items()
    swept = answer_tables.SWEEP
    more = [row | {"seed": 1, "test_accuracy": 9.0} for row in rows if row["method"] != swept]
    behind = [
        row | ({"test_accuracy": 90.0, "flops": 1} if row["method"] == swept else {})
        for row in (*rows, *more)
    ]
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "table.json").write_text(json.dumps({title: behind}))
    kinds = {
        answer_tables.FRONT: (80.0, 3.0, answer_tables.DEFAULTS_RULE),
        answer_tables.SCRATCH: (81.5, 4.0, answer_tables.SWEEPS_RULE),
    }
    chosen = [
        {
            **{"section": title, "kind": kind, "seeds": [0]},
            "rules": {rule: {"test_accuracy": a, "mflops": f}},
        }
        for kind, (a, f, rule) in kinds.items()
    ]
    assert {rule for *_, rule in kinds.values()} <= choice.RULES.keys()
    (tmp_path / "b" / "choice.json").write_text(json.dumps(chosen))
    capsys.readouterr()
    assert answer_tables.main([str(tmp_path)]) == 0
    _, _, one, other = capsys.readouterr().out.splitlines()
    said = "| [a](a/table.md) | Plain3Net on digits | 1 | 88.00 | 82.00 | +6.00 (2.03) | 3 % |"
    net = f"{_flops((2, 1, 1)) / _flops((3, 3, 3)):.2f}"
    assert one == f"{said} {net} | {net} | 82.00 |  |"
    assert other.split(" | ")[2:6] == ["1", "88.00", "90.00", "**-2.00 (1.60)**"]
    assert other.split(" | ")[7].startswith("**") and other.endswith(
        " | 82.00 | -1.50, 0.75 times |"
    )
    chosen[0]["seeds"] = [0, 1]  # What is of other seeds is not compared.
    (tmp_path / "b" / "choice.json").write_text(json.dumps(chosen))
    assert answer_tables.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.endswith(" | 82.00 |  |\n")
    assert answer_tables.main([str(tmp_path / "a")]) == 1


def test_where_nothing_has_run_nothing_is_written(tmp_path, capsys):
    study, out = str(FOLDER / "answer_small.py"), tmp_path / "out"
    assert answer.main([f"--study={study}", f"--workdir={tmp_path}", f"--out={out}"]) == 1
    assert choice.main([f"--study={study}", f"--workdir={tmp_path}", f"--out={out}"]) == 1
    assert not out.exists()
    assert capsys.readouterr().err.count("nothing of") == 2


@pytest.mark.parametrize("name, count", [("answer", 108), ("answer_small", 27)])
def test_all_methods_have_one_recipe(name, count):
    """They differ in growth, depth and front alone; nets of a set in nothing else."""
    cells, entries = expand(load_study(str(FOLDER / f"{name}.py")))
    assert len(cells) == count
    assert f"{count} cells" in (FOLDER / f"{name}.py").read_text()
    sections = {entry.section.title: [] for entry in entries}
    for entry in entries:
        sections[entry.section.title] += [cell.settings for cell in entry.cells]
    for settings in sections.values():
        for part in ("data", "optimizer"):
            assert all(each[part] == settings[0][part] for each in settings)
        for key in ("epochs", "total_epochs", "schedule"):
            assert len({each["finetune"][key] for each in settings}) == 1
        assert len({each["model"]["family"] for each in settings}) == 1
