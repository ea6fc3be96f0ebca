"""Random configs: each is resolved, or refused in words that name the key.

`AUTOGROW_EXAMPLES=3000 pytest tests/test_random_configs.py` tries more of them, and others.
"""

import functools
import json
import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from autogrow_jax.build import resolve
from autogrow_jax.command_line import UsageError
from autogrow_jax.errors import UserError
from autogrow_jax.main import parse_arguments
from autogrow_jax.reporting.workdir import to_json
from autogrow_jax.settings import KEYS, Settings, default_config, differences

NUMBERS = st.one_of(
    st.integers(-3, 1000),
    st.sampled_from([2**31, 2**32 - 1, 2**63, -(2**64), 10**400, True]),
    st.floats(),
    st.sampled_from([math.nan, math.inf, 1e-320, 1.7e308, -0.0]),
)
WORDS = st.one_of(
    st.text(max_size=6),
    st.sampled_from(["\udc80", "\0", "a" * 100_000, "nan", "1e999", "~nobody", "0.5", "1,1,1"]),
)
SCALARS = st.one_of(
    st.none(),
    NUMBERS,
    WORDS,
    st.binary(max_size=4),
    st.sampled_from([b"0.5", 1j, print, object(), np.float32(0.5), np.array(3), np.ones((2, 2))]),
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inside: st.one_of(
        st.lists(inside, max_size=4),
        st.lists(inside, max_size=4).map(tuple),
        st.dictionaries(st.one_of(st.text(max_size=4), st.integers()), inside, max_size=2),
    ),
    max_leaves=6,
)


def fitting(name):
    """Values of a key that are right, or of the right type."""
    key = KEYS[name]
    if not isinstance(key.accepts, str):
        return st.sampled_from(list(key.accepts))
    if isinstance(key.default, bool):
        return st.booleans()
    if isinstance(key.default, str):
        return st.one_of(st.just(key.default), st.sampled_from(["0.2", "test", "black"]), WORDS)
    if isinstance(key.default, tuple):
        numbers = st.one_of(st.integers(0, 5), NUMBERS)
        return st.one_of(st.lists(numbers, max_size=5), st.lists(st.integers(1, 9), min_size=3))
    if isinstance(key.default, int):
        return st.one_of(st.integers(0, 20), NUMBERS)
    return st.one_of(st.floats(0, 1), st.floats(0, 1e12), NUMBERS)


def flat(values):
    """Dicts of a few keys and their values."""
    entry = st.sampled_from(list(KEYS)).flatmap(lambda key: st.tuples(st.just(key), values(key)))
    return st.lists(entry, max_size=6).map(dict)


def check(config, keys):
    """Resolves a config; whatever comes of it stays the same when it is written and read."""
    try:
        resolved = resolve(config)
    except UserError as error:
        message = str(error)
        assert any(name in message for name in keys) or "config.growth: " in message
        assert len(message) < 2000
        message.encode()  # Any terminal takes it.
        return
    assert isinstance(resolved, Settings)
    assert hash(resolve(resolved)) == hash(resolved)
    assert resolve(resolved) == resolved
    written = json.loads(to_json(resolved.to_dict()))
    assert resolve(written) == resolved
    assert not differences(written, resolved)
    again = default_config()
    again.update(written)
    assert resolve(again) == resolved


@given(flat(fitting))
def test_values_of_the_right_type_are_resolved_or_refused_by_name(config):
    check(config, config)


@given(flat(lambda name: st.one_of(fitting(name), ANYTHING)))
@example({"data.validation": b"0.5"})
@example({"optimizer.learning_rate": 10**400})
@example({"seed": {}})
def test_values_of_any_type_are_resolved_or_refused_by_name(config):
    check(config, config)


DEEP = functools.reduce(lambda inside, _: [inside], range(100_000), [])
EXTREMES = [
    None,
    -1,
    0,
    2**63,
    10**400,
    10**5000,
    -1.0,
    1e308,
    math.nan,
    math.inf,
    b"0.5",
    "a" * 9999,
]
EXTREMES += [
    "",
    "\0",
    "\udc80",
    (),
    [[1], 2],
    [10**5000],
    {},
    {"a": 1},
    DEEP,
    np.nan,
    np.ones(3),
    object(),
]


@pytest.mark.parametrize("name", KEYS)
def test_each_key_takes_or_refuses_what_is_extreme(name):
    for value in EXTREMES:
        check({name: value}, [name])


@given(st.dictionaries(st.one_of(st.sampled_from(["growth", "seed"]), st.text()), ANYTHING))
@example({"growth": {1: 2}})
@example({"growth": {"interval": {}}})
@example({1: 2})
def test_a_config_of_any_form_is_resolved_or_refused(config):
    try:
        assert isinstance(resolve(config), Settings)
    except UserError as error:
        assert "config" in str(error)


def test_a_config_that_holds_itself_is_refused():
    config, values = {}, []
    config["growth"] = config
    values.append(values)
    for circle in (config, {"growth.sub": values}, {"seed": config}):
        with pytest.raises(UserError, match="config"):
            resolve(circle)


@given(flat(lambda name: st.one_of(fitting(name), ANYTHING).map(spell)))
def test_values_on_the_command_line_are_resolved_or_refused_by_name(texts):
    arguments = [f"--config.{name}={text}" for name, text in texts.items()]
    changes = parse_arguments(arguments).changes
    assert list(changes) == list(texts)
    check(changes, texts)


def spell(value):
    """A value as somebody might write it on the command line."""
    return value if isinstance(value, str) else repr(value)


PARTS = ["--config", "--config.", "--config.seed", "--workdir", "=", "-", "--", "1", "true", "--x"]


@given(st.lists(st.lists(st.one_of(st.sampled_from(PARTS), WORDS), max_size=4).map("".join)))
@example(["--config.seed=" + "9" * 5000])
def test_any_arguments_are_read_or_refused(arguments):
    try:
        read = parse_arguments(arguments)
    except UsageError as error:
        assert str(error)
    else:
        assert isinstance(read.workdir, str) and isinstance(read.config, str)
