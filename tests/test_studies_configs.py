"""The studies that ship: they expand, their headers are true, their controls control."""

import ast
import functools
import importlib.util
import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from autogrow_jax.config import make_policy, resolve
from autogrow_jax.errors import UserError
from autogrow_jax.growth import POLICIES, replay
from autogrow_jax.models import get_family
from autogrow_jax.settings_files import load_study
from autogrow_jax.studies.cells import Cell, Entry, expand

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "configs" / "studies"
_spec = importlib.util.spec_from_file_location("published", FOLDER / "_published.py")
published = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(published)
FULL = (
    "main_table",
    "dataset_size",
    "growth_interval",
    "initializers",
    "seed_depth",
    "fixed_depth",
)
TABLES = (
    published.DATASET_SIZE,
    published.GROWTH_INTERVAL,
    published.INITIALIZERS,
    published.SEED_DEPTH,
)
PERCENTS = (100, 75, 50, 25)


@functools.cache
def expanded(name: str) -> tuple[list[Cell], list[Entry]]:
    return expand(load_study(str(FOLDER / f"{name}.py")))


def entries(name: str, title: str = "") -> list[Entry]:
    return [entry for entry in expanded(name)[1] if entry.section.title.startswith(title)]


def kinds(name: str) -> set[str]:
    """Titles without the set they are about."""
    return {entry.section.title.split(",")[0] for entry in entries(name)}


# --- Files.


@pytest.mark.parametrize("name", [*FULL, "smoke", "lifelong"])
def test_a_header_has_the_command_and_the_number_of_cells(name):
    header = ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text())) or ""
    command = re.search(r"^python -m autogrow_jax\.studies (.*\\\n.*)$", header, re.MULTILINE)
    assert command, header
    given = command[1].replace("\\\n", " ").split()
    assert f"--study=configs/studies/{name}.py" in given
    assert f"--workdir=runs/{name}" in given
    (cells,) = re.findall(r"(\d+) cells \(", header)
    assert int(cells) == len(expanded(name)[0])


@pytest.mark.parametrize("name", [*FULL, "smoke", "lifelong"])
def test_no_two_cells_compute_the_same(name):
    cells, _ = expanded(name)
    assert len({(repr(cell.settings), cell.found_by) for cell in cells}) == len(cells)


@pytest.mark.parametrize(
    "wanted, rows", [("mnist_plain3", 1), ("mnist", 4), ("fashion_mnist", 4), ("plain3", 5)]
)
def test_an_argument_selects_a_part(wanted, rows):
    _, some = expand(load_study(f"{FOLDER}/main_table.py:{wanted}"))
    assert len(some) == rows
    for entry in some:
        data, family = entry.cells[0].settings["data"], entry.cells[0].settings["model"]["family"]
        assert wanted in (data["name"], family, f"{data['name']}_{family}")


def test_an_argument_that_selects_nothing_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="no part 'mnist_plane3'; did you mean 'mnist_plain3'"):
        load_study(f"{FOLDER}/dataset_size.py:mnist_plane3")


# --- The paper's numbers.


def test_the_main_table_is_what_the_headers_of_its_configs_say():
    found = re.compile(r"found (\d+(?:-\d+)+): (\S+) % .*?, (\S+) points", re.DOTALL)
    for part, numbers in published.MAIN_TABLE.items():
        ((depths, accuracy, delta),) = found.findall((ROOT / "configs" / f"{part}.py").read_text())
        assert numbers.depths == tuple(map(int, depths.split("-")))
        assert (numbers.accuracy, numbers.delta) == (float(accuracy), float(delta))


def test_the_dataset_sizes_are_the_posters():
    poster = ROOT.parent / "shared" / "poster.txt"
    if not poster.is_file():
        pytest.skip("the authors' poster is not beside the project")
    networks = {shown: name for name, shown in published.NETWORKS.items()}
    sets = {shown: name for name, shown in published.DATASETS.items()}
    table: dict[str, dict[int, tuple]] = {}
    heads: list[str] = []
    for line in poster.read_text().splitlines():
        if titles := re.findall(r"(\w+) on (\w+)", line):
            heads = [f"{sets[data]}_{networks[net]}" for net, data in titles]
        cells = re.findall(r"(\d+)%\t(\d+(?:-\d+)+)\t(\d+\.\d+)", line)
        for head, (percent, depths, accuracy) in zip(heads, cells, strict=bool(cells)):
            numbers = (tuple(map(int, depths.split("-"))), float(accuracy))
            table.setdefault(head, {})[int(percent)] = numbers
    ours = {
        part: {percent: (row.depths, row.accuracy) for percent, row in rows.items()}
        for part, rows in published.DATASET_SIZE.items()
    }
    assert ours == table


def test_a_run_has_the_same_numbers_in_every_table():
    usual = (100, 3, ("periodic", "gaussian"), 1)
    for table, key in zip(TABLES, usual, strict=True):
        for part, rows in table.items():
            main = published.MAIN_TABLE[part]
            assert (rows[key].depths, rows[key].accuracy) == (main.depths, main.accuracy)


def test_published_depths_fit_their_networks():
    for table in TABLES:
        for part, rows in table.items():
            stages = len(get_family(part.rsplit("_", 1)[1]).widths)
            assert all(len(row.depths) == stages for row in rows.values())


def test_the_paper_says_what_it_is_quoted_for():
    for part, row in published.MAIN_TABLE.items():
        assert row.delta > 0 if "plain" in part else abs(row.delta) < 1.5
    for rows in published.DATASET_SIZE.values():
        accuracies = [rows[percent].accuracy for percent in PERCENTS]
        assert accuracies == sorted(accuracies, reverse=True)
    for rows in published.GROWTH_INTERVAL.values():
        blocks = [sum(rows[interval].depths) for interval in sorted(rows)]
        assert blocks == sorted(blocks, reverse=True)
    for rows in published.INITIALIZERS.values():
        for policy in ("periodic", "convergent"):
            of_policy = {name: row for (other, name), row in rows.items() if other == policy}
            assert max(of_policy, key=lambda name: of_policy[name].accuracy) == "gaussian"
        for name in ("morphism", "adam", "uniform", "gaussian"):
            assert rows["periodic", name].accuracy > rows["convergent", name].accuracy + 0.5


# --- The studies.


def test_the_main_table_has_a_baseline_for_each_of_its_twenty_rows():
    rows = entries("main_table")
    assert len(rows) == 20
    for entry in rows:
        assert entry.row.published.delta is not None
        for cell, baseline in zip(entry.cells, entry.baselines, strict=True):
            data, model = cell.settings["data"], cell.settings["model"]
            part = f"{data['name']}_{model['family']}"
            assert entry.row.published == published.MAIN_TABLE[part]
            assert baseline.found_by == cell.name
            assert (cell.settings["mode"], baseline.settings["mode"]) == ("grow", "scratch")
            assert baseline.settings["finetune"]["epochs"] == 200


def _settings(title: str) -> dict[str, dict[int, dict]]:
    """{network: {percent: settings}} of a section of the dataset-size study."""
    table: dict[str, dict[int, dict]] = {}
    for entry in entries("dataset_size"):
        if entry.section.title == title:
            percent = int(entry.row.names[2].removesuffix(" %"))
            table.setdefault(entry.row.names[0], {})[percent] = entry.cells[0].settings
    return table


@pytest.mark.parametrize(
    "title, intervals, windows",
    [
        ("Dataset size, K scaled", (3, 4, 6, 12), (100, 100, 100, 100)),
        ("Dataset size, K and J scaled", (3, 4, 6, 12), (100, 133, 200, 400)),
        ("Dataset size, K fixed", (3, 3, 3, 3), (100, 100, 100, 100)),
    ],
)
def test_dataset_sizes_have_the_k_and_j_they_claim(title, intervals, windows):
    table = _settings(title)
    assert len(table) == 4
    for rows in table.values():
        growth = [rows[percent]["growth"] for percent in PERCENTS]
        assert tuple(settings["interval"] for settings in growth) == intervals
        assert tuple(settings["window"] for settings in growth) == windows
        assert [rows[percent]["data"]["fraction"] for percent in PERCENTS] == [1, 0.75, 0.5, 0.25]
    for entry in entries("dataset_size"):
        growth = entry.cells[0].settings["growth"]
        assert entry.row.names[3:5] == (str(growth["interval"]), str(growth["window"]))


def _floors(title: str, network: str) -> list[int]:
    """Blocks of the column "floor", 100 % first."""
    rows = [e.row for e in entries("dataset_size") if e.section.title == title]
    return [sum(map(int, r.names[5].split("-"))) for r in rows if r.names[0] == network]


def test_the_floor_sinks_as_published_and_stays_in_the_controls():
    for network in ("Basic3ResNet", "Basic4ResNet", "Plain3Net", "Plain4Net"):
        sinking = _floors("Dataset size, K scaled", network)
        assert all(more > less for more, less in itertools.pairwise(sinking))
        for control in ("Dataset size, K and J scaled", "Dataset size, K fixed"):
            assert set(_floors(control, network)) == {sinking[0]}


def test_what_the_paper_found_lies_above_the_floor():
    rows = [entry.row for entry in entries("dataset_size", "Dataset size, K scaled")]
    assert all(row.published for row in rows)
    for row in rows:
        assert sum(row.published.depths) >= sum(map(int, row.names[5].split("-")))


def test_no_curve_leads_below_the_floor():
    entry = entries("dataset_size", "Dataset size, K scaled")[3]
    policy = make_policy(resolve(entry.cells[0].settings))
    floor = sum(map(int, entry.row.names[5].split("-")))
    rng = np.random.default_rng(0)
    for rise in (0.0, 0.01, 0.1):
        curve = 40 + rise * np.arange(2000) + rng.normal(size=2000)
        found = replay(policy, curve.tolist())
        assert sum(found.depths) >= floor


def test_the_full_set_is_run_once_for_all_sections_of_the_dataset_study():
    whole = [entry for entry in entries("dataset_size") if entry.row.names[2] == "100 %"]
    assert len(whole) == 12
    assert len({cell.name for entry in whole for cell in entry.cells}) == 4 * 3


@pytest.mark.parametrize("name", ["growth_interval", "smoke"])
def test_intervals_are_what_the_rows_are_called(name):
    for entry in entries(name, "Growth interval"):
        growth = entry.cells[0].settings["growth"]
        (shown,) = entry.row.names
        assert growth["policy"] == ("convergent" if shown == "convergent" else "periodic")
        assert shown in ("convergent", str(growth["interval"]))


@pytest.mark.parametrize("name", ["initializers", "smoke"])
def test_every_initializer_meets_both_policies(name):
    shown = set()
    for entry in entries(name, "Initialisers"):
        growth = entry.cells[0].settings["growth"]
        assert entry.row.names == (growth["policy"], growth["initializer"])
        shown.add(entry.row.names)
    starts = ("morphism", "adam", "uniform", "gaussian", "default")
    assert shown == {(policy, start) for policy in ("periodic", "convergent") for start in starts}


@pytest.mark.parametrize("name", ["initializers", "smoke"])
def test_every_policy_that_ships_is_compared_at_equal_budget(name):
    rows = entries(name, "Policies at equal budget")
    settings = [entry.cells[0].settings for entry in rows]
    # Other tests may have registered some of their own.
    ours = {p for p, make in POLICIES.items() if make.__module__.startswith("autogrow_jax.")}
    assert {one["growth"]["policy"] for one in settings} == ours
    assert [(one["growth"]["policy"], str(one["growth"]["interval"])) for one in settings] == [
        entry.row.names for entry in rows
    ]
    (total,) = {one["finetune"]["total_epochs"] for one in settings}
    assert total > 0
    assert len({(one["finetune"]["epochs"], one["finetune"]["schedule"]) for one in settings}) == 1


@pytest.mark.parametrize("name", ["seed_depth", "smoke"])
def test_seed_networks_are_what_the_rows_are_called(name):
    rows = entries(name, "Seed depth")
    for entry in rows:
        depths = entry.cells[0].settings["model"]["depths"]
        assert entry.row.names[-1] == "-".join(map(str, depths))
    assert len({entry.row.names for entry in rows}) == len(rows)


@pytest.mark.parametrize("name", ["fixed_depth", "smoke"])
def test_fixed_depths_are_trained_as_the_found_net_is_from_scratch(name):
    sections: dict[str, list[Entry]] = {}
    for entry in entries(name, "Fixed depths"):
        sections.setdefault(entry.section.title, []).append(entry)
    for rows in sections.values():
        (found,) = [entry for entry in rows if entry.row.found]
        fixed = [entry for entry in rows if not entry.row.found]
        assert len(fixed) >= 4
        for entry in fixed:
            (blocks,) = entry.row.names
            for cell, baseline in zip(entry.cells, found.baselines, strict=True):
                depths = (int(blocks),) * 3
                same = {**baseline.settings["model"], "depths": depths}
                assert cell.settings == {**baseline.settings, "model": same}


# --- All in miniature.


def test_smoke_has_every_kind_of_table():
    assert kinds("smoke") == set().union(*(kinds(name) for name in FULL))


def test_smoke_needs_no_data_and_few_epochs():
    cells, _ = expanded("smoke")
    assert {cell.settings["data"]["name"] for cell in cells} == {"digits"}
    assert all(0 < cell.settings["finetune"]["total_epochs"] <= 48 for cell in cells)
    assert {cell.settings["model"]["family"] for cell in cells} == set(published.NETWORKS)


def test_smoke_runs_what_its_sections_share_once():
    shared = [
        entries("smoke", "Main table")[0],
        *(e for e in entries("smoke", "Growth interval") if e.row.names == ("3",)),
        *(e for e in entries("smoke", "Initialisers") if e.row.names == ("periodic", "gaussian")),
        *(e for e in entries("smoke", "Policies") if e.row.names == ("periodic", "3")),
        *(e for e in entries("smoke", "Seed depth") if e.row.names == ("1-1-1",)),
    ]
    assert len(shared) == 5
    assert len({cell.name for entry in shared for cell in entry.cells}) == 2  # Seeds.
    found = entries("smoke", "Fixed depths")[-1]
    plain = entries("smoke", "Main table")[1]
    assert (found.cells, found.baselines) == (plain.cells, plain.baselines)


def test_smoke_scales_the_limits_with_the_set_so_that_the_policy_ends_growth():
    for entry in entries("smoke", "Dataset size"):
        settings = entry.cells[0].settings
        images = settings["data"]["fraction"] * settings["finetune"]["total_epochs"]
        assert images == 0.5 * 24
