"""The examples in docstrings do what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

import autogrow_jax

_ROOT = Path(autogrow_jax.__file__).parent
MODULES = [
    ".".join(("autogrow_jax", *file.relative_to(_ROOT).with_suffix("").parts))
    for file in sorted(_ROOT.rglob("*.py"))
    if ">>> " in file.read_text()
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0
