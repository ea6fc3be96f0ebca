"""The table of keys says of each what it is, wherever the table is shown."""

from pathlib import Path

import pytest

from autogrow_jax.settings import KEYS, Settings, describe_keys
from autogrow_jax.settings_table import Growth

ROOT = Path(__file__).resolve().parents[1]


def test_the_page_of_settings_is_that_of_the_table():
    page = (ROOT / "docs" / "settings.md").read_text()
    assert page == describe_keys() + "\n", "run python -m autogrow_jax.settings > docs/settings.md"


@pytest.mark.parametrize("name", KEYS)
def test_a_key_says_what_it_takes_and_what_it_is(name):
    key = KEYS[name]
    (row,) = [line for line in describe_keys().splitlines() if line.startswith(f"| `{name}` ")]
    assert f"| `{key.default!r}` |" in row
    assert key.help in row
    assert all(f"`{word}`" in row for word in key.accepts if not isinstance(key.accepts, str))


def test_settings_are_typed_hashable_and_cannot_be_changed():
    settings = Settings()
    assert {Growth.__annotations__["interval"], type(settings.growth.interval)} == {int}
    assert hash(settings) == hash(Settings())
    with pytest.raises(AttributeError):
        settings.growth.interval = 4
    assert list(settings.to_dict()) == sorted(settings.to_dict())
