"""The examples in docstrings do what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

import autogrow_jax
from autogrow_jax.growth import INITIALIZERS, POLICIES
from autogrow_jax.models import FAMILIES

_ROOT = Path(autogrow_jax.__file__).parent
MODULES = [
    ".".join(("autogrow_jax", *file.relative_to(_ROOT).with_suffix("").parts))
    for file in sorted(_ROOT.rglob("*.py"))
    if ">>> " in file.read_text()
]


@pytest.fixture(autouse=True)
def registries():
    """Takes back what an example registers."""
    before = [(registry, set(registry)) for registry in (INITIALIZERS, FAMILIES, POLICIES)]
    yield
    for registry, names in before:
        for name in registry.keys() - names:
            del registry[name]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0
