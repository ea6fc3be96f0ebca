"""What the README shows is so: its Python runs, its commands and keys exist."""

import contextlib
import io
import re
from pathlib import Path

import pytest

from autogrow_jax import training
from autogrow_jax.config import check_key, resolve
from autogrow_jax.growth import POLICIES
from autogrow_jax.growth.initializers import INITIALIZERS
from autogrow_jax.models.network import FAMILIES
from autogrow_jax.reporting.console import EPOCH_HEADER

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


@pytest.fixture
def registries():
    """Takes back what is registered during a test."""
    before = [(registry, set(registry)) for registry in (INITIALIZERS, FAMILIES, POLICIES)]
    yield
    for registry, names in before:
        for name in registry.keys() - names:
            del registry[name]


def test_the_python_blocks_run_and_print_what_they_say(monkeypatch, registries):
    # A whole run is the notebook's test; here its config has to be right.
    monkeypatch.setattr(training, "run", lambda config, workdir: resolve(config))
    namespace: dict[str, object] = {"__name__": "readme"}
    for block in blocks("python"):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block, "README.md", "exec"), namespace)
        expected = re.findall(r"^print\(.*\)  # (.*)$", block, re.MULTILINE)
        assert printed.getvalue().splitlines() == expected


def test_the_commands_name_keys_and_files_that_exist():
    commands = "\n".join(blocks("sh"))
    keys = re.findall(r"--config\.([\w.]+)=", commands)
    assert keys
    for key in keys:
        check_key(key)
    files = re.findall(r"--config=(\S+)", commands) + re.findall(r"\]\(([\w/.]+)\)", TEXT)
    assert files
    for file in files:
        assert (ROOT / file).exists(), file


def test_the_excerpt_of_a_run_has_the_columns_of_one():
    assert EPOCH_HEADER in "\n".join(blocks("text"))
