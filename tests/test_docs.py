"""What the README and docs/ show is so: their Python runs, their commands, keys and links exist."""

import ast
import contextlib
import csv
import importlib.util
import inspect
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import autogrow_jax
from autogrow_jax import cli, training
from autogrow_jax.cli import COMMANDS
from autogrow_jax.config import default_config, resolve
from autogrow_jax.data import AUGMENTATIONS
from autogrow_jax.growth import INITIALIZERS, POLICIES
from autogrow_jax.models import FAMILIES
from autogrow_jax.optim import LOSSES, OPTIMIZERS, SCHEDULES
from autogrow_jax.own import Own
from autogrow_jax.reporting import QuietReporter
from autogrow_jax.reporting.console import EPOCH_HEADER
from autogrow_jax.reporting.metrics import read
from autogrow_jax.settings import check_key

pytestmark = pytest.mark.reports
REGISTRIES = (INITIALIZERS, FAMILIES, POLICIES, LOSSES, OPTIMIZERS, SCHEDULES, AUGMENTATIONS)
ROOT = Path(__file__).resolve().parents[1]
PAGES = {path.name: path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
SPEC = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
reference = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(reference)


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def registries():
    """Takes back what is registered during a test."""
    before = [(registry, set(registry)) for registry in REGISTRIES]
    yield
    for registry, names in before:
        for name in registry.keys() - names:
            del registry[name]


def play(page: str) -> dict[str, object]:
    """Runs a page's Python, holds what it prints to what it says, and returns what it defined."""
    namespace: dict[str, object] = {"__name__": "page"}
    for block in blocks(PAGES[page], "python"):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block, page, "exec"), namespace)
        expected = re.findall(r"^print\(.*\)  # (.*)$", block, re.MULTILINE)
        assert printed.getvalue().splitlines() == expected
    return namespace


@pytest.fixture
def no_run(monkeypatch):
    """A whole run is too long: its config has to be right."""
    monkeypatch.setattr(training, "run", lambda config, workdir, **own: resolve(config, Own(**own)))


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name == "extending.md"))
        for name, path in PAGES.items()
        if blocks(path, "python")
    ],
)
def test_the_python_blocks_of_a_page_run_and_print_what_they_say(page, no_run, registries):
    play(page)


def define(page: str, *names: str) -> dict[str, object]:
    """What a page imports, defines and registers, and the `names` that it assigns; runs no more."""
    kept = []
    for node in ast.parse("\n".join(blocks(PAGES[page], "python"))).body:
        match node:
            case ast.Import() | ast.ImportFrom() | ast.ClassDef():
                kept.append(node)
            case ast.FunctionDef(decorator_list=[]):
                kept.append(node)
            case ast.Expr(ast.Call(ast.Name(id=name))) if name.startswith("register_"):
                kept.append(node)
            case ast.Assign([ast.Name(id=name)]) if name in names:
                kept.append(node)
    namespace: dict[str, object] = {"__name__": "page"}
    exec(compile(ast.Module(kept, []), page, "exec"), namespace)
    return namespace


@pytest.mark.slow
def test_what_a_page_registers_trains(registries, tmp_path):
    own = ("labels", "x_train", "dataset", "convnext", "preactivation")
    dataset = define("extending.md", *own)["dataset"]
    config = default_config()
    config.model.family, config.model.depths = "preactivation2", (1, 1)
    config.growth.policy, config.growth.initializer = "until_it_falls", "copy"
    config.loss, config.data.augment = "smooth", "cut_out"
    config.optimizer.name, config.finetune.schedule = "clipped_lion", "falling"
    config.finetune.epochs, config.finetune.front = 2, False
    config.data.batch_size, config.num_devices = 32, 1
    config.log.progress = config.log.tensorboard = False
    result = training.run(config, tmp_path, dataset=dataset, reporter=QuietReporter())
    lines = read(tmp_path / "metrics.jsonl")
    assert len(result.growth) >= 1
    assert result.depths == (1, 1 + len(result.growth))
    assert [line["phase"] for line in lines[-3:]] == ["growth", "finetune", "finetune"]
    assert [line["learning_rate"] for line in lines[-3:]] == [1e-3, 1e-3, 5e-4]


@pytest.mark.slow
def test_the_commands_of_the_page_on_ones_own_images_do_what_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for kind, bright in (("cat", 40), ("dog", 200)):
        folder = tmp_path / "photos" / kind
        folder.mkdir(parents=True)
        for number in range(40):
            size = (*random.integers(20, 60, 2), 3)
            pixels = random.integers(bright - 30, bright + 30, size, dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    shutil.copytree(tmp_path / "photos", tmp_path / "others")
    tiny = ["growth.max_epochs=1", "growth.interval=1", "finetune.epochs=1", "data.batch_size=16"]
    for line in "".join(blocks(PAGES["own_images.md"], "sh")).splitlines():
        _, command, *rest = shlex.split(line)
        more = [f"--config.{key}" for key in tiny] if command == "train" else []
        assert cli.main([command, *rest, *more]) == 0, f"{line}\n{capsys.readouterr().err}"
    with open("found.csv") as file:
        found = list(csv.DictReader(file))
    assert len(found) == 80
    assert {row["class"] for row in found} <= {"cat", "dog"}
    assert (tmp_path / "runs" / "photos" / "report.html").exists()
    assert list((tmp_path / "runs" / "photos").rglob("*.npz"))


@pytest.mark.slow
def test_the_picture_of_growth_is_drawn_by_the_command_beside_it(tmp_path):
    curve = [(1, 1), (2, 1), (2, 2), (2, 2)]
    with open(tmp_path / "metrics.jsonl", "w") as file:
        for epoch, depths in enumerate(curve):
            line = {"epoch": epoch, "phase": "growth", "depths": depths, "validation_accuracy": 50}
            file.write(json.dumps(line) + "\n")
    command = [sys.executable, ROOT / "docs" / "draw_growth.py", tmp_path, tmp_path / "a.png"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, check=True, env=environment)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (990, 594)


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_name_keys_and_files_that_exist(page):
    text = PAGES[page].read_text()
    commands = "\n".join(re.findall(r"(?:python -m autogrow_jax|autogrow \w)[^`|]*", text))
    assert set(re.findall(r"\bautogrow ([a-z]+)", commands)) <= set(COMMANDS)
    for key in re.findall(r"--config\.([\w.]+)=", commands):
        check_key(key)
    for file in re.findall(r"--(?:config|study)=([\w./]+)", commands):
        if file.startswith("configs/"):
            assert (ROOT / file).exists(), file


@pytest.mark.parametrize("page", PAGES)
def test_the_links_of_a_page_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)]+)\)", PAGES[page].read_text()):
        if not link.startswith("http"):
            file, _, anchor = link.partition("#")
            target = PAGES[page].parent / file if file else PAGES[page]
            assert target.exists(), link
            if anchor:
                titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
                slugs = [
                    re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles
                ]
                assert anchor in slugs, link


def test_every_page_is_named_in_the_readme_and_in_the_site():
    readme, site = PAGES["README.md"].read_text(), (ROOT / "mkdocs.yml").read_text()
    pages = [name for name in PAGES if name != "README.md"]
    assert [name for name in pages if f"docs/{name}" not in readme] == []
    assert [name for name in pages if f": {name}\n" not in site] == []


def test_the_reference_has_every_public_name_and_what_each_is():
    pages, rooms = reference.write_pages(), reference.list_public()
    site, everything = (ROOT / "mkdocs.yml").read_text(), "\n".join(pages.values())
    for door, (module, names) in rooms.items():
        page = f"reference/{door.partition('.')[0]}.md"
        assert f"{page}\n" in site
        for name in names:
            full = reference.place(module, name)
            assert re.search(rf"^::: {full}$|{{ #{full} }}$", everything, re.M), full
            assert re.search(rf"^(::: |## ).*\b{name}\b", pages[page], re.M), full
            assert reference.describe(module, name), f"{full} does not say what it is"
    assert set(autogrow_jax.__all__) <= set(
        re.findall(r"^\| \[`(\w+)`\]", pages["reference/index.md"], re.M)
    )
    doors = {
        path.parent.name
        for path in (ROOT / "autogrow_jax").glob("*/__init__.py")
        if "__all__ = " in path.read_text()
    }
    assert doors - reference.INNER <= set(rooms)


def test_what_the_pages_import_is_in_the_reference():
    rooms = reference.list_public()
    for page, path in PAGES.items():
        code = "\n".join(blocks(path, "python") + blocks(path, "py"))
        for module, names in re.findall(r"^from autogrow_jax\.([\w.]+) import (.+)$", code, re.M):
            for name in names.split(", "):
                assert name in rooms[module][1], f"{page}: {module}.{name}"


def test_what_is_experimental_says_so_in_its_docstring_and_in_the_reference():
    _, _, listed = reference.write_index().partition("## What is experimental")
    for door, (module, names) in reference.list_public().items():
        whole = module.__doc__.startswith("Experimental: ")
        assert (f"all of [`autogrow_jax.{door}`]" in listed) == whole, door
        for name in names if not whole else ():
            says = (inspect.getdoc(getattr(module, name)) or "").startswith("Experimental: ")
            assert (f"- [`{name}`](" in listed) == says, name
    assert "`run_seeds`" in listed


def test_the_excerpt_of_a_run_has_the_columns_of_one():
    assert EPOCH_HEADER in "\n".join(blocks(PAGES["README.md"], "text"))
