"""A step whose batch is taken in parts, and what lets a GPU compute the same bits at each start."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autogrow_jax import derivatives
from autogrow_jax.errors import UserError
from autogrow_jax.steps.accumulation import differentiate_parts
from autogrow_jax.steps.programs import Programs
from autogrow_jax.steps.state import make_mesh


def _differentiate(weights):
    def differentiate(stats, images, labels):
        def loss_fn(weights):
            logits = images @ weights
            loss = jnp.mean((logits - labels) ** 2)
            mean = 0.9 * stats + 0.1 * jnp.mean(images)
            return loss, (jnp.sum(logits > labels, dtype=jnp.int32), mean)

        return jax.value_and_grad(loss_fn, has_aux=True)(weights)

    return differentiate


@pytest.fixture(scope="module")
def batch():
    images, labels = jax.random.split(jax.random.key(0))
    return jax.random.normal(images, (24, 5)), jax.random.normal(labels, (24,))


@pytest.mark.parametrize("parts", [2, 3, 8])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(batch, parts):
    differentiate = _differentiate(jnp.arange(5.0))
    (loss, (correct, _)), gradient = differentiate(jnp.float32(0), *batch)
    given = differentiate, parts, jnp.float32(0), batch, jnp.asarray
    (loss_found, (correct_found, _)), found = differentiate_parts(*given)
    np.testing.assert_allclose(loss_found, loss, rtol=1e-6)
    np.testing.assert_allclose(found, gradient, rtol=1e-5)
    assert correct_found == correct


def test_each_part_moves_the_running_statistics_in_turn(batch):
    given = _differentiate(jnp.arange(5.0)), 2, jnp.float32(1), batch, jnp.asarray
    (_, (_, stats)), _ = differentiate_parts(*given)
    images = batch[0]
    expected = 0.9 * (0.9 + 0.1 * jnp.mean(images[::2])) + 0.1 * jnp.mean(images[1::2])
    np.testing.assert_allclose(stats, expected, rtol=1e-6)


@pytest.mark.devices(2)
def test_each_part_has_to_be_divided_by_the_devices():
    make_mesh(2, 12, 3)
    with pytest.raises(UserError, match=r"batch_size is 12, which 4 parts .* a multiple of 8"):
        make_mesh(2, 12, 4)


def test_max_pooling_of_our_own_is_that_of_flax_without_its_scatter():
    # Few values, so that most windows have several that are largest.
    x = jnp.asarray(np.random.default_rng(0).integers(0, 4, (2, 9, 11, 3)), jnp.float32)
    weights = jax.random.normal(jax.random.key(1), (2, 4, 5, 3))

    def theirs(x):
        return jnp.sum(weights * nn.max_pool(x, (3, 3), strides=(2, 2)))

    def ours(x):
        return jnp.sum(weights * derivatives.max_pool(x))

    np.testing.assert_array_equal(derivatives.max_pool(x), nn.max_pool(x, (3, 3), strides=(2, 2)))
    np.testing.assert_allclose(jax.grad(ours)(x), jax.grad(theirs)(x), rtol=1e-6)
    lowered = [jax.jit(jax.grad(f)).lower(x).as_text() for f in (theirs, ours)]
    assert ["select_and_scatter" in text for text in lowered] == [True, False]
    assert np.isnan(derivatives.max_pool(x.at[0, 4, 4, 0].set(jnp.nan))[0, 1:3, 1:3, 0]).all()


def test_a_gpu_is_told_to_compute_the_same_bits_and_xla_knows_the_words(monkeypatch):
    options = Programs(deterministic=True)._options(False)
    assert options is None  # A CPU does so anyway.
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert Programs()._options(False) is None
    options = Programs(deterministic=True)._options(True)
    assert options == {"xla_gpu_exclude_nondeterministic_ops": True, "xla_gpu_autotune_level": 0}
    jax.jit(jnp.sin).lower(1.0).compile(compiler_options=options)
