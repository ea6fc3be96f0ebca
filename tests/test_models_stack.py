"""A stack with its depth as data computes what a plain loop over the blocks computes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autogrow_jax.models.stack import num_slots, run_stack

pytestmark = pytest.mark.usefixtures("quick_compilation")

CAPACITY = 5
CHANNELS = 3


def _block(params, stats, x):
    """Keeps the shape, reads the statistics and moves them, as normalisation does."""
    y = x + jnp.tanh(x @ params["kernel"] + params["bias"]) * (1.0 + stats["mean"])
    return y, {"mean": 0.9 * stats["mean"] + 0.1 * jnp.mean(y, (0, 1, 2))}


def _blocks():
    keys = jax.random.split(jax.random.key(0), 4)
    params = {
        "kernel": jax.random.normal(keys[0], (CAPACITY, CHANNELS, CHANNELS)),
        "bias": jax.random.normal(keys[1], (CAPACITY, CHANNELS)),
    }
    stats = {"mean": jax.random.normal(keys[2], (CAPACITY, CHANNELS))}
    return params, stats, jax.random.normal(keys[3], (2, 2, 2, CHANNELS))


def _slot(tree, i):
    return jax.tree.map(lambda a: a[i], tree)


def _loop(params, stats, x, depth):
    """The reference: no stacking in sight."""
    new_stats = []
    for i in range(depth):
        x, updated = _block(_slot(params, i), _slot(stats, i), x)
        new_stats.append(updated)
    return x, new_stats


def _loss(run, params, stats, x):
    y, stats = run(params, stats, x)
    return jnp.sum(jnp.sin(y)), (y, stats)


def _gradients(run, params, stats, x):
    """((value, (y, stats)), (gradients of params, gradient of x))."""
    return jax.value_and_grad(partial(_loss, run), argnums=(0, 2), has_aux=True)(params, stats, x)


@jax.jit
def _dynamic(params, stats, x, depth):
    return _gradients(lambda p, s, x: run_stack(_block, p, s, x, depth), params, stats, x)


@jax.jit
def _exact(params, stats, x):
    return _gradients(partial(run_stack, _block), params, stats, x)


@partial(jax.jit, static_argnums=3)
def _reference(params, stats, x, depth):
    return _gradients(partial(_loop, depth=depth), params, stats, x)


def _assert_close(found, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected
    )


@pytest.mark.parametrize("depth", [0, 1, 3, CAPACITY])
def test_depth_as_data_equals_a_loop_over_the_blocks(depth):
    params, stats, x = _blocks()
    # What stands in dead slots must not matter.
    params, stats = jax.tree.map(lambda a: a.at[depth:].set(jnp.nan), (params, stats))
    (value, (y, new_stats)), (grads, grad_x) = _dynamic(params, stats, x, depth)
    (value_, (y_, new_stats_)), (grads_, grad_x_) = _reference(params, stats, x, depth)
    _assert_close((value, y, grad_x), (value_, y_, grad_x_))
    _assert_close(jax.tree.map(lambda a: a[:depth], grads), _slot(grads_, slice(depth)))
    for i in range(depth):
        _assert_close(_slot(new_stats, i), new_stats_[i])


@pytest.mark.parametrize("depth", [0, 1, 3, CAPACITY])
def test_dead_slots_get_no_gradient_and_keep_their_statistics(depth):
    params, stats, x = _blocks()
    (_, (_, new_stats)), (grads, _) = _dynamic(params, stats, x, depth)
    for leaf in jax.tree.leaves(grads):
        np.testing.assert_array_equal(leaf[depth:], jnp.zeros_like(leaf[depth:]))
        assert all(jnp.any(live != 0) for live in leaf[:depth])
    np.testing.assert_array_equal(new_stats["mean"][depth:], stats["mean"][depth:])
    assert jnp.all(new_stats["mean"][:depth] != stats["mean"][:depth])


@pytest.mark.parametrize("depth", [1, 3, CAPACITY])
def test_the_exact_scan_equals_depth_as_data(depth):
    params, stats, x = _blocks()
    exact_params, exact_stats = jax.tree.map(lambda a: a[:depth], (params, stats))
    exact = _exact(exact_params, exact_stats, x)
    (value, (y, new_stats)), (grads, grad_x) = _dynamic(params, stats, x, depth)
    new_stats, grads = jax.tree.map(lambda a: a[:depth], (new_stats, grads))
    _assert_close(((value, (y, new_stats)), (grads, grad_x)), exact)


def test_no_block_at_all_is_the_identity():
    params, stats, x = _blocks()
    for depth in (0, jnp.int32(0)):
        y, new_stats = run_stack(_block, params, stats, x, depth)
        np.testing.assert_array_equal(y, x)
        np.testing.assert_array_equal(new_stats["mean"], stats["mean"])
    empty, no_stats = jax.tree.map(lambda a: a[:0], (params, stats))
    assert num_slots(empty) == 0
    y, _ = run_stack(_block, empty, no_stats, x)
    np.testing.assert_array_equal(y, x)


def test_one_executable_serves_every_depth():
    params, stats, x = _blocks()
    traces = []

    @jax.jit
    def step(params, stats, x, depth):
        traces.append(depth)
        return _gradients(lambda p, s, x: run_stack(_block, p, s, x, depth), params, stats, x)

    values = [float(step(params, stats, x, d)[0][0]) for d in range(CAPACITY + 1)]
    assert len(traces) == 1
    assert len(set(values)) == CAPACITY + 1, "the depth made no difference"


@pytest.mark.parametrize(
    "policy", [None, jax.checkpoint_policies.dots_saveable], ids=["nothing", "dots"]
)
@pytest.mark.parametrize("depth", [None, 3], ids=["exact", "dynamic"])
def test_rematerialised_blocks_have_the_same_gradients(policy, depth):
    params, stats, x = _blocks()
    remat = jax.checkpoint(_block, policy=policy)
    found, expected = (
        jax.jit(partial(_gradients, partial(run_stack, block, depth=depth)))(params, stats, x)
        for block in (remat, _block)
    )
    _assert_close(found, expected)


def test_blocks_without_statistics():
    params, _, x = _blocks()

    def block(params, stats, x):
        return jnp.tanh(x @ params["kernel"] + params["bias"]), stats

    exact = {name: leaf[:2] for name, leaf in params.items()}
    y, stats = run_stack(block, params, {}, x, 2)
    assert stats == {}
    _assert_close(y, run_stack(block, exact, {}, x)[0])


def test_vmap_over_inputs_with_gradients():
    params, stats, x = _blocks()
    many = jnp.stack([x, 2.0 * x, -x])
    found = jax.vmap(_dynamic, (None, None, 0, None))(params, stats, many, 3)
    for i, one in enumerate(many):
        _assert_close(_slot(found, i), _dynamic(params, stats, one, 3))


def test_bfloat16_inputs_with_float32_parameters():
    params, stats, x = _blocks()

    def block(params, stats, x):
        narrow = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)
        y = x + jnp.tanh(x @ narrow["kernel"] + narrow["bias"])
        return y, {"mean": stats["mean"] + jnp.mean(y.astype(jnp.float32), (0, 1, 2))}

    run = partial(run_stack, block, depth=3)
    (_, (y, new_stats)), (grads, grad_x) = jax.jit(partial(_gradients, run))(
        params, stats, x.astype(jnp.bfloat16)
    )
    assert (y.dtype, grad_x.dtype) == (jnp.bfloat16, jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves((new_stats, grads))} == {jnp.dtype("float32")}
