"""Each optimiser against its published rule, written out in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from autogrow_jax.errors import UserError
from autogrow_jax.training import make_optimizer

pytestmark = pytest.mark.usefixtures("optax_promotion")

_GRADIENTS = np.array([[1.0, -2.0, 0.5], [0.3, 0.1, -0.7], [2.0, 0.0, 0.2]], np.float32)
_DECAY = 0.01


def _ours(name, rate, **options):
    optimizer = make_optimizer(name, weight_decay=_DECAY, **options)
    params = jnp.ones(3)
    state = optimizer.init(params)
    for gradient in _GRADIENTS:
        updates, state = optimizer.update(jnp.asarray(gradient), state, params)
        params = params - rate * updates
    return np.asarray(params)


def _reference(rule, rate):
    params, memory = np.ones(3), {}
    for step, gradient in enumerate(_GRADIENTS, start=1):
        params = params - rate * rule(gradient + _DECAY * params, memory, step)
    return params


def _sgd(g, m, step):
    m["v"] = 0.9 * m.get("v", 0) + g
    return m["v"]


def _nesterov(g, m, step):
    return g + 0.9 * _sgd(g, m, step)


def _adam(g, m, step):
    m["m"] = 0.9 * m.get("m", 0) + 0.1 * g
    m["v"] = 0.999 * m.get("v", 0) + 0.001 * g * g
    return m["m"] / (1 - 0.9**step) / (np.sqrt(m["v"] / (1 - 0.999**step)) + 1e-8)


def _adagrad(g, m, step):
    m["v"] = m.get("v", 0) + g * g
    return np.divide(g, np.sqrt(m["v"] + 1e-7), where=m["v"] > 0, out=np.zeros_like(g))


def _adadelta(g, m, step):
    m["v"] = 0.9 * m.get("v", 0) + 0.1 * g * g
    move = g * np.sqrt(m.get("d", 0) + 1e-6) / np.sqrt(m["v"] + 1e-6)
    m["d"] = 0.9 * m.get("d", 0) + 0.1 * move * move
    return move


def _rmsprop(g, m, step):
    m["s"] = 0.99 * m.get("s", 0) + 0.01 * g * g
    return _sgd(g / np.sqrt(m["s"] + 1e-8), m, step)


@pytest.mark.parametrize(
    ("name", "options", "rule"),
    [
        ("sgd", {}, _sgd),
        ("sgd", {"nesterov": True}, _nesterov),
        ("sgd", {"momentum": 0.0}, lambda g, m, step: g),
        ("adam", {}, _adam),
        ("adagrad", {}, _adagrad),
        ("adadelta", {}, _adadelta),
        ("rmsprop", {}, _rmsprop),
    ],
)
def test_optimizer_follows_its_rule(name, options, rule):
    expected = _reference(rule, 0.1)
    np.testing.assert_allclose(_ours(name, 0.1, **options), expected, rtol=2e-4, atol=1e-5)


def test_amsgrad_never_forgets_a_large_gradient():
    optimizer = make_optimizer("amsgrad")
    params, large, small = jnp.zeros(1), jnp.full(1, 10.0), jnp.full(1, 0.1)
    state = optimizer.init(params)
    for gradient in [large] + 50 * [small]:
        updates, state = optimizer.update(gradient, state, params)
    adam = make_optimizer("adam")
    other = adam.init(params)
    for gradient in [large] + 50 * [small]:
        free, other = adam.update(gradient, other, params)
    assert float(updates[0]) < float(free[0])


def test_unknown_optimizer_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'adagrad'"):
        make_optimizer("adagard")
