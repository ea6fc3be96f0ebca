"""Every config file loads, says truly how it is run and what the paper found."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from autogrow_jax.config import make_policy, resolve
from autogrow_jax.files.official import OFFICIAL_SETS
from autogrow_jax.models import get_family
from autogrow_jax.settings_files import DEFAULT_CONFIG, load_config

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "configs").glob("[!_]*_*.py"))
FAMILIES = {
    "Basic3ResNet": "basic3",
    "Plain3Net": "plain3",
    "Basic4ResNet": "basic4",
    "Plain4Net": "plain4",
}
SETS = {
    "CIFAR10": "cifar10",
    "CIFAR100": "cifar100",
    "SVHN": "svhn",
    "FashionMNIST": "fashion_mnist",
    "MNIST": "mnist",
}
CELLS = [f"{dataset}_{family}" for dataset in SETS.values() for family in FAMILIES.values()]
COMMAND = re.compile(r"^python -m autogrow_jax\.main(?P<arguments>.*)$", re.MULTILINE)
FOUND = re.compile(
    r"The paper found (\d+(?:-\d+)+): (\d+\.\d\d) % .*?, ([+-]\d+\.\d\d) points", re.DOTALL
)


def load(path: Path):
    return resolve(load_config(str(path)))


def docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text())) or ""


def cell(name: str) -> Path:
    return ROOT / "configs" / f"{name}.py"


def test_every_set_and_family_of_the_paper_has_its_file():
    names = {path.stem for path in FILES}
    assert set(CELLS) <= names
    assert set(SETS.values()) == set(OFFICIAL_SETS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_config_resolves_and_its_header_runs_it(path):
    config = load(path)
    assert config.mode == "grow"
    make_policy(config)
    commands = COMMAND.findall(docstring(path))
    assert len(commands) == 1
    named = [word for word in commands[0].split() if word.startswith("--config=")]
    if str(path) == DEFAULT_CONFIG:
        assert not named
    else:
        assert named == [f"--config=configs/{path.name}"]


@pytest.mark.parametrize("name", CELLS)
def test_a_config_of_the_paper_has_its_protocol(name):
    config = load(cell(name))
    assert f"{config.data.name}_{config.model.family}" == name
    assert config.data.validation == "test"
    assert (config.growth.policy, config.growth.mode) == ("periodic", "group")
    assert (config.growth.interval, config.growth.window) == (3, 100)
    assert (config.growth.threshold, config.growth.initializer) == (0.05, "gaussian")
    assert set(config.growth.max_depths) == {200}
    assert set(config.model.depths) == {1}
    assert config.model.bn_scale_init == "uniform"
    assert (config.data.batch_size, config.data.fraction) == (128, 1.0)
    assert (config.optimizer.name, config.optimizer.momentum) == ("sgd", 0.9)
    assert config.optimizer.weight_decay == 5e-4
    assert config.optimizer.learning_rate == (0.1 if "basic" in name else 0.01)
    assert (config.finetune.epochs, config.finetune.schedule) == (200, "staircase")
    assert not config.finetune.front


@pytest.mark.parametrize("family", ["basic4", "bottleneck4", "plain4"])
def test_imagenet_has_the_protocol_of_its_own(family):
    config = load(cell(f"imagenet_{family}"))
    assert config.model.family == family
    assert (config.data.stream, config.data.flip, config.data.image_size) == ("yes", "yes", 224)
    assert config.data.crop_padding == -1
    assert min(config.growth.max_depths) >= 17
    assert config.model.stem == "imagenet"
    assert (config.growth.interval, config.growth.window) == (2, 30)
    assert (config.data.batch_size, config.optimizer.weight_decay) == (256, 1e-4)
    assert (config.finetune.epochs, config.finetune.schedule) == (90, "thirds")
    assert config.data.validation == "test"


@pytest.mark.parametrize("name", [*CELLS, "imagenet_basic4"])
def test_the_depths_in_a_header_fit_the_family(name):
    (found,) = FOUND.findall(docstring(cell(name)))
    assert found[0].count("-") + 1 == len(get_family(load(cell(name)).model.family).widths)


def read_poster(text: str) -> dict[str, tuple[str, str, float]]:
    """The main table: {"svhn_plain3": (found net, accuracy, delta)}."""
    start = text.index("net\tdataset\tfound net")
    cells, networks = {}, ["", ""]
    for row in text[start:].splitlines()[1:]:
        columns = row.split("\t")
        if len(columns) != 10:
            break
        for half, (net, dataset, *found) in enumerate((columns[:5], columns[5:])):
            networks[half] = net or networks[half]
            key = f"{SETS[dataset]}_{FAMILIES[networks[half]]}"
            cells[key] = (found[0], found[1], float(found[2]))
    return cells


def test_the_numbers_in_the_headers_are_the_posters():
    poster = ROOT.parent / "shared" / "poster.txt"
    if not poster.is_file():
        pytest.skip("the authors' poster is not beside the project")
    table = read_poster(poster.read_text())
    assert sorted(table) == sorted(CELLS)
    for name, expected in table.items():
        ((depths, accuracy, delta),) = FOUND.findall(docstring(cell(name)))
        assert (depths, accuracy, float(delta)) == expected, name


@pytest.mark.multiprocess
def test_a_config_runs_from_another_folder(tmp_path):
    # As with an installed package: both packages are importable, the files are not beside one.
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "autogrow_jax.main", "--config=configs/svhn_plain3.py"]
    # A run writes its config before it looks for the data, which are not there.
    missing = ["--workdir=run", "--config.data.name=missing.npz"]
    done = subprocess.run(
        command + missing, cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: missing.npz: no such file")
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert written["model"]["family"] == "plain3"
    assert written["data"]["validation"] == "test"
