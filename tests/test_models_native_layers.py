"""Layers and stacks of the package's own kernels: equal to what they are made of."""

import os
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from autogrow_jax import native
from autogrow_jax.models import FAMILIES, blocks, build_network, get_family, register_family
from autogrow_jax.models.chain import find_chain, run_chain
from autogrow_jax.models.convolution import DIMENSION_NUMBERS, why_not_native
from autogrow_jax.models.layers import EPSILON
from autogrow_jax.models.stack import run_stack
from autogrow_jax.native import layers

pytestmark = pytest.mark.skipif(bool(why_not_native()), reason=why_not_native() or "built")

QUICK = {"xla_backend_optimization_level": 0}


def _normal(shape, seed=0, scale=1.0):
    return jnp.asarray(scale * np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def _run(function, *arguments):
    return jax.jit(function, compiler_options=QUICK)(*arguments)


def _assert_close(found, expected, tolerance=2e-5):
    """To so much of an array's largest entry."""

    def check(path, a, b):
        name = jax.tree_util.keystr(path)
        atol = tolerance * max(float(np.abs(b).max(initial=0.0)), 1e-3)
        np.testing.assert_allclose(a, b, rtol=0, atol=atol, err_msg=name)

    jax.tree_util.tree_map_with_path(check, found, expected)


def _by_parts(x, kernel, scale, bias, addend, strides, padding, relu, known=None):
    y = lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=DIMENSION_NUMBERS)
    mean, var = known or (jnp.mean(y, (0, 1, 2)), jnp.var(y, (0, 1, 2)))
    z = (y - mean) * lax.rsqrt(var + EPSILON) * scale + bias
    z = z if addend is None else z + addend
    return jax.nn.relu(z) if relu else z, lax.stop_gradient(mean), lax.stop_gradient(var)


# Image, kernel, stride, channels and features: tiles and none, the stems', parts of registers.
LAYERS = [
    ((5, 8, 8), 3, 1, 16, 16),
    ((3, 9, 7), 3, 1, 24, 20),
    ((4, 9, 7), 3, 2, 16, 32),
    ((4, 8, 6), 1, 2, 16, 32),
    ((4, 5, 5), 1, 1, 5, 40),
    ((2, 17, 16), 7, 2, 3, 64),
    ((7, 2, 2), 3, 1, 64, 64),
    ((3, 6, 33), 3, 1, 1, 16),
]
ENDS = [(True, False), (True, True), (False, False)]  # ReLU, something added.


@pytest.mark.parametrize(("relu", "adds"), ENDS)
@pytest.mark.parametrize(("image", "size", "stride", "channels", "features"), LAYERS, ids=str)
def test_a_layer_is_its_parts(image, size, stride, channels, features, relu, adds):
    x, kernel = _normal((*image, channels)), _normal((size, size, channels, features), 1)
    scale, bias = 1 + _normal((features,), 2, 0.3), _normal((features,), 3, 0.3)
    where = ((stride, stride), (((size - 1) // 2,) * 2,) * 2)
    shape = native.output_shape(x.shape, kernel.shape, *where)
    addend = _normal(shape, 4) if adds else None
    g = _normal(shape, 5)

    def gradients(function, *operands):
        def run(*operands):
            z, *statistics = function(*operands, *where, relu)
            return jnp.sum(z * g), (z, *statistics)

        argnums = range(len(operands) if adds else len(operands) - 1)
        return _run(jax.value_and_grad(run, tuple(argnums), has_aux=True), *operands)

    operands = (x, kernel, scale, bias, addend)
    (_, values), grads = gradients(native.layer, *operands)
    (_, expected), expected_grads = gradients(_by_parts, *operands)
    _assert_close(values, expected)
    _assert_close(grads, expected_grads)

    mean, var = _normal((features,), 6), 1 + jnp.abs(_normal((features,), 7))

    def evaluate(function):
        def run(x, scale):
            z = function(x, scale)
            return jnp.sum(z * g), z

        return _run(jax.value_and_grad(run, (0, 1), has_aux=True), x, scale)

    found = evaluate(
        lambda x, s: native.evaluated_layer(x, kernel, s, bias, mean, var, addend, *where, relu)
    )
    by_parts = evaluate(
        lambda x, s: _by_parts(x, kernel, s, bias, addend, *where, relu, (mean, var))[0]
    )
    _assert_close(found, by_parts, 1e-4)


def test_statistics_survive_a_mean_that_is_large():
    x = 100 + _normal((8, 16, 16, 16), 0, 0.1)
    kernel = jnp.eye(16, dtype=jnp.float32)[None, None]
    ones = jnp.ones(16)
    _, mean, var = _run(
        lambda x: native.layer(x, kernel, ones, 0 * ones, None, (1, 1), ((0, 0), (0, 0)), True),
        x,
    )
    exact = np.asarray(x, np.float64)
    np.testing.assert_allclose(mean, exact.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(var, exact.var((0, 1, 2)), rtol=0.02)


@pytest.mark.parametrize("channels", [1, 16])
def test_what_is_no_number_stays_none(channels):
    x = _normal((4, 8, 8, channels)).at[1, 2, 3, 0].set(jnp.nan)
    kernel, ones = _normal((3, 3, channels, 16), 1), jnp.ones(16)
    where = ((1, 1), ((1, 1), (1, 1)), True)
    z, mean, var = _run(lambda x: native.layer(x, kernel, ones, ones, None, *where), x)
    assert np.isnan(mean).all() and np.isnan(var).all() and np.isnan(z).all()
    z = _run(lambda x: native.evaluated_layer(x, kernel, *(ones,) * 4, None, *where), x)
    assert np.isnan(z[1, 2, 3]).all() and np.isfinite(z[0]).all()


def test_the_small_number_in_the_root_is_the_same_everywhere():
    # Of constant images nothing is left but it.
    x, kernel = jnp.ones((2, 4, 4, 16)), jnp.eye(16, dtype=jnp.float32)[None, None]
    mean, var, ones = jnp.zeros(16), jnp.zeros(16), jnp.ones(16)
    z = native.evaluated_layer(
        x, kernel, ones, 0 * ones, mean, var, None, (1, 1), ((0, 0), (0, 0)), True
    )
    np.testing.assert_allclose(z, EPSILON**-0.5, rtol=1e-6)
    assert layers.EPSILON == EPSILON


BLOCKS = {
    "plain": blocks.PlainBlock(features=16, parent=None),
    "basic": blocks.BasicBlock(features=24, parent=None),
    "bottleneck": blocks.BottleneckBlock(features=32, parent=None),
}


@pytest.mark.parametrize("depth", [0, 1, 3, 4, None])
@pytest.mark.parametrize("kind", BLOCKS)
def test_a_stack_is_its_blocks_one_after_the_other(kind, depth):
    block, capacity = BLOCKS[kind], 4
    x = jax.nn.relu(_normal((5, 9, 8, block.features)))
    variables = jax.vmap(lambda key: block.init(key, x[:1], False))(
        jax.random.split(jax.random.key(0), capacity)
    )
    # Statistics and scales that differ from their start, the last slots' too.
    noise = iter(range(100))
    variables = jax.tree.map(lambda a: a + 0.1 * jnp.abs(_normal(a.shape, next(noise))), variables)
    params, stats = variables["params"], variables["batch_stats"]
    g = _normal(x.shape, 1)
    live = None if depth is None else jnp.int32(depth)

    def run(convolution, train):
        options = block.options._replace(convolution=convolution)
        own = block.clone(options=options, parent=None)

        def apply(params, stats, x):
            variables = {"params": params, "batch_stats": stats}
            if not train:
                return own.apply(variables, x, False), stats
            y, updated = own.apply(variables, x, True, mutable=["batch_stats"])
            return y, updated["batch_stats"]

        def loss(params, x):
            if convolution == "xla":
                z, moved = run_stack(apply, params, stats, x, live)
            else:
                z, moved = run_chain(
                    find_chain(own),
                    params,
                    stats,
                    x,
                    live,
                    train,
                    lambda p, s, x, d: run_stack(apply, p, s, x, d)[0],
                )
            return jnp.sum(z * g), (z, moved)

        return _run(jax.value_and_grad(loss, (0, 1), has_aux=True), params, x)

    for train in (True, False):
        found, expected = run("native", train), run("xla", train)
        _assert_close(found, expected, 1e-4)
    if depth is not None:
        grads = jax.tree.leaves(found[1][0])
        assert all(np.all(leaf[depth:] == 0) for leaf in grads)


def test_networks_take_the_stack_where_their_blocks_allow():
    x, live = jnp.zeros((2, 8, 8, 3)), jnp.array([2, 1, 1], jnp.int32)

    def calls(family, train=True, **options):
        network = build_network(family, (2, 2, 2), convolution="native", **options)
        variables = jax.eval_shape(network.init, jax.random.key(0), x)
        apply = lambda v: network.apply(v, x, train, live, mutable=["batch_stats"])  # noqa: E731
        text = str(jax.make_jaxpr(apply)(variables))
        return {name for name in ("autogrow_stack", "autogrow_evaluated_stack") if name in text}

    assert calls("plain3") == calls("basic3") == {"autogrow_stack"}
    assert calls("plain3", train=False) == {"autogrow_evaluated_stack"}
    assert calls("switch3") == calls("plain3_nobn") == calls("plain3", remat=True) == set()


PROGRAM = """
import os, sys
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[1])])
import hashlib, jax, jax.numpy as jnp, numpy as np
from autogrow_jax.models import build_network
network = build_network("basic3", (3, 2, 1), convolution="native")
x = jax.random.normal(jax.random.key(1), (17, 16, 16, 3))
variables = network.init(jax.random.key(0), x)
loss = lambda p: jnp.sum(
    network.apply({**variables, "params": p}, x, True, mutable=["batch_stats"])[0] ** 2
)
grads = jax.jit(jax.grad(loss))(variables["params"])
print(hashlib.sha256(b"".join(np.asarray(a).tobytes() for a in jax.tree.leaves(grads))).hexdigest())
"""


def _train_and_evaluate(network, variables, images, live_depths=None):
    def loss(params):
        given = {**variables, "params": params}
        logits, updated = network.apply(
            given, images, train=True, live_depths=live_depths, mutable=["batch_stats"]
        )
        return jnp.sum(logits**2), updated

    found = _run(jax.grad(loss, has_aux=True), variables["params"])
    return found, _run(lambda v: network.apply(v, images, live_depths=live_depths), variables)


def _pair(family, depths, images):
    networks = {
        name: build_network(family, depths, image_channels=3, convolution=name)
        for name in ("xla", "native")
    }
    return networks, _run(networks["xla"].init, jax.random.key(0), images)


def test_a_stage_without_blocks_is_skipped_as_by_a_loop():
    images = _normal((3, 8, 8, 3))
    networks, variables = _pair("basic3", (2, 2, 2), images)
    live = jnp.array([0, 1, 2])
    found, expected = (
        _train_and_evaluate(networks[name], variables, images, live) for name in ("native", "xla")
    )
    _assert_close(found, expected, 1e-4)


def test_more_blocks_than_slots_are_an_error():
    kernel, channel = _normal((2, 3, 3, 4, 4)), jnp.ones((2, 4))
    stack = (native.StackLayer(kernel, channel, channel),)
    with pytest.raises(Exception, match="depth is more than its slots"):
        jax.block_until_ready(native.stack(jnp.int32(3), _normal((1, 4, 4, 4)), stack, False))


def test_parameters_of_another_type_are_taken_as_float32():
    images = _normal((3, 8, 8, 3))
    networks, variables = _pair("basic3", (1, 2, 1), images)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), variables)
    back = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), half)
    with jax.numpy_dtype_promotion("standard"):
        found, expected = (_run(networks["native"].apply, v, images) for v in (half, back))
    np.testing.assert_array_equal(found, expected)


class _Leaky(blocks.PlainBlock):
    """Derived from a block that runs as a chain, and another one."""

    @nn.compact
    def __call__(self, x, train):
        x = blocks.conv(self.options, self.features, 3, self.stride, x.shape[-1], name="conv1")(x)
        return nn.leaky_relu(x)


class _Renamed(blocks.PlainBlock):
    """The same block."""


def test_a_block_derived_from_ours_runs_as_itself():
    assert find_chain(_Renamed(4)) == find_chain(blocks.PlainBlock(4)) is not None
    assert find_chain(_Leaky(4)) is None
    plain = get_family("plain3")
    register_family(
        "leaky1", plain._replace(block=_Leaky, widths=(4,), stem_width=4, batch_norm=False)
    )
    try:
        images = _normal((2, 6, 6, 3))
        networks, variables = _pair("leaky1", (3,), images)
        found, expected = (_run(networks[n].apply, variables, images) for n in ("native", "xla"))
        _assert_close(found, expected, 1e-4)
    finally:
        del FAMILIES["leaky1"]


def test_a_block_that_is_no_chain_is_not_convolved_twice():
    images = _normal((2, 8, 8, 3))
    networks, variables = _pair("switch3", (2, 2, 2), images)

    def loss(params):
        given = {**variables, "params": params}
        return jnp.sum(networks["native"].apply(given, images, train=True, mutable=True)[0])

    text = jax.jit(jax.grad(loss)).lower(variables["params"]).as_text()
    # Forward: the stem's; of each stage two of the first block, a shortcut where the width changes,
    # two in the loop over the rest. Backward: none.
    assert text.count("@autogrow_layer(") == 1 + 4 + 5 + 5


def test_what_is_added_has_to_fit():
    x, kernel, channel = _normal((1, 4, 4, 4)), _normal((3, 3, 4, 4)), jnp.ones(4)
    where = ((1, 1), ((1, 1), (1, 1)))
    with pytest.raises(ValueError, match="has shape"):
        native.layer(x, kernel, channel, channel, x[:, :1], *where, True)
    with pytest.raises(ValueError, match="has shape"):
        native.evaluated_layer(x, kernel, *[channel] * 4, x[:, :1], *where, True)
    with pytest.raises(ValueError, match="in front of a ReLU"):
        native.layer(x, kernel, channel, channel, x, *where, False)


@pytest.mark.multiprocess
@pytest.mark.skipif(len(getattr(os, "sched_getaffinity", lambda _: [0])(0)) < 2, reason="one core")
@pytest.mark.slow
def test_any_number_of_threads_gives_the_same_bits():
    found = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM, str(cores)], capture_output=True, check=True, text=True
        ).stdout
        for cores in (1, 2)
    }
    assert len(found) == 1
