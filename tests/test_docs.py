"""What the README and docs/ show is so: their Python runs, their commands, keys and links exist."""

import contextlib
import io
import re
from pathlib import Path

import pytest

from autogrow_jax import training
from autogrow_jax.cli import COMMANDS
from autogrow_jax.config import resolve
from autogrow_jax.data import AUGMENTATIONS
from autogrow_jax.growth import INITIALIZERS, POLICIES
from autogrow_jax.models import FAMILIES
from autogrow_jax.optim import LOSSES, OPTIMIZERS, SCHEDULES
from autogrow_jax.own import Own
from autogrow_jax.reporting.console import EPOCH_HEADER
from autogrow_jax.settings import check_key

REGISTRIES = (INITIALIZERS, FAMILIES, POLICIES, LOSSES, OPTIMIZERS, SCHEDULES, AUGMENTATIONS)
ROOT = Path(__file__).resolve().parents[1]
PAGES = {path.name: path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}


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


@pytest.mark.parametrize("page", [name for name, path in PAGES.items() if blocks(path, "python")])
def test_the_python_blocks_of_a_page_run_and_print_what_they_say(page, monkeypatch, registries):
    # A whole run is the notebook's test; here its config has to be right.
    monkeypatch.setattr(training, "run", lambda config, workdir, **own: resolve(config, Own(**own)))
    namespace: dict[str, object] = {"__name__": "page"}
    for block in blocks(PAGES[page], "python"):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block, page, "exec"), namespace)
        expected = re.findall(r"^print\(.*\)  # (.*)$", block, re.MULTILINE)
        assert printed.getvalue().splitlines() == expected


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
            file, _, _ = link.partition("#")
            assert (PAGES[page].parent / file).exists(), link


def test_every_page_is_named_in_the_readme():
    readme = PAGES["README.md"].read_text()
    assert [name for name in PAGES if name != "README.md" and f"docs/{name}" not in readme] == []


def test_the_excerpt_of_a_run_has_the_columns_of_one():
    assert EPOCH_HEADER in "\n".join(blocks(PAGES["README.md"], "text"))
