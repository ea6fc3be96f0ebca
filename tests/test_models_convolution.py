"""The canonical-form convolution against JAX's own: values and both gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from autogrow_jax.models import FAMILIES, build_network, convolution, layers
from autogrow_jax.models.convolution import DIMENSION_NUMBERS, conv_general_dilated

# (kernel, stride) of every convolution in the networks, always padded by (kernel - 1) / 2.
KINDS = [(3, 1), (3, 2), (1, 1), (1, 2), (7, 2)]
# Even and odd, oblong, and so small that the output has one pixel.
SIZES = [(8, 8), (9, 6), (7, 5), (2, 2), (1, 1)]
CHANNELS = [(3, 16), (16, 8)]
# The compiler's optimisations cost more here than they save; the test of the loop has them.
QUICK_COMPILATION = {"xla_backend_optimization_level": 0}


def _padding(kernel):
    return [((kernel - 1) // 2,) * 2] * 2


def _ours(x, w, stride):
    return conv_general_dilated(x, w, (stride, stride), _padding(w.shape[0]))


def _reference(x, w, stride):
    return lax.conv_general_dilated(
        x, w, (stride, stride), _padding(w.shape[0]), dimension_numbers=DIMENSION_NUMBERS
    )


def _example(size, kernel, stride, channels, dtype=jnp.float32):
    """x, w and a cotangent of the output that is no constant."""
    generator = np.random.default_rng(0)
    x = jnp.asarray(generator.standard_normal((5, *size, channels[0])), dtype)
    w = jnp.asarray(generator.standard_normal((kernel, kernel, *channels)), dtype)
    like = jax.eval_shape(lambda x, w: _reference(x, w, stride), x, w)
    return x, w, jnp.asarray(generator.standard_normal(like.shape), dtype)


def _value_and_gradients(convolution, x, w, g, stride):
    y, pullback = jax.vjp(lambda x, w: convolution(x, w, stride), x, w)
    return y, *pullback(g)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize(("kernel", "stride"), KINDS)
def test_value_and_gradients_are_those_of_lax(kernel, stride, channels):
    def run(examples):
        return [
            [_value_and_gradients(convolution, *example, stride) for example in examples]
            for convolution in (_ours, _reference)
        ]

    examples = [_example(size, kernel, stride, channels) for size in SIZES]
    found, expected = jax.jit(run, compiler_options=QUICK_COMPILATION)(examples)
    for size, ours, theirs in zip(SIZES, found, expected, strict=True):
        for name, a, b in zip(("value", "x", "kernel"), ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4, err_msg=f"{name} at {size}")


@pytest.mark.parametrize(("kernel", "stride"), KINDS)
def test_gradients_in_a_loop_are_those_outside(kernel, stride):
    x, w, g = _example((7, 6), kernel, stride, (4, 4))

    def descend(convolution):
        def step(_, carry):
            x, w = carry
            _, grad_x, grad_w = _value_and_gradients(convolution, x, w, g, stride)
            return x - 0.01 * grad_x, w - 0.01 * grad_w

        return step

    looped = jax.jit(lambda *carry: lax.fori_loop(0, 3, descend(_ours), carry))(x, w)
    expected, step = (x, w), jax.jit(descend(_reference))
    for i in range(3):
        expected = step(i, expected)
    for a, b in zip(looped, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    assert all(jnp.abs(a - b).max() > 0.01 for a, b in zip(looped, (x, w), strict=True))


@pytest.mark.parametrize("size", [(8, 8), (2, 2)])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (1, 2)])
def test_bfloat16_stays_bfloat16(kernel, stride, size):
    example = _example(size, kernel, stride, (4, 4), jnp.bfloat16)
    wide = [a.astype(jnp.float32) for a in example]
    run = jax.jit(_value_and_gradients, static_argnums=(0, 4), compiler_options=QUICK_COMPILATION)
    found = run(_ours, *example, stride)
    assert [a.dtype for a in found] == [jnp.bfloat16] * 3
    for a, b in zip(found, run(_reference, *wide, stride), strict=True):
        np.testing.assert_allclose(
            a.astype(jnp.float32), b, rtol=0.05, atol=0.02 * float(jnp.abs(b).max())
        )


def test_vmap_and_a_second_derivative():
    x, w, _ = _example((5, 5), 3, 1, (2, 2))

    def curvature(convolution):
        """The derivative of the gradient's norm: reverse mode over reverse mode."""

        def norm(x, w):
            grads = jax.grad(lambda x, w: jnp.sum(jnp.tanh(convolution(x, w, 1))), (0, 1))(x, w)
            return sum(jnp.sum(jnp.square(a)) for a in grads)

        run = jax.vmap(jax.grad(norm), (0, None))
        return jax.jit(run, compiler_options=QUICK_COMPILATION)(x[:, None], w)

    np.testing.assert_allclose(curvature(_ours), curvature(_reference), rtol=1e-3, atol=1e-3)


# The stem of one family is the stem of all.
@pytest.mark.parametrize(
    ("family", "stem"), [*((f, "small") for f in FAMILIES), ("plain3", "imagenet")]
)
def test_no_network_has_a_convolution_of_another_kind(family, stem, monkeypatch):
    seen = set()

    def record(lhs, rhs, window_strides, padding, **kwargs):
        assert rhs.shape[0] == rhs.shape[1]
        assert list(padding) == _padding(rhs.shape[0])
        seen.add((rhs.shape[0], *set(window_strides)))
        return conv_general_dilated(lhs, rhs, window_strides, padding, **kwargs)

    monkeypatch.setitem(layers._CONVOLVE, "xla", record)
    network = build_network(family, (2,) * len(FAMILIES[family].widths), stem=stem)
    jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    assert seen and seen <= set(KINDS)
    assert ((7, 2) in seen) == (stem == "imagenet")


@pytest.mark.parametrize(
    "options",
    [
        {"padding": "SAME"},
        {"kernel_dilation": 2},
        {"input_dilation": 2},
        {"feature_group_count": 2},
        {"precision": "highest"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_it_cannot_do_is_refused(options):
    options = {"padding": ((1, 1), (1, 1)), **options}
    layer = nn.Conv(4, (3, 3), conv_general_dilated=conv_general_dilated, **options)
    with pytest.raises(NotImplementedError, match="use jax"):
        jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((1, 4, 4, 4)))


@pytest.mark.parametrize("stride", [1, 2])
def test_kernel_gradient_by_parts_of_the_batch_is_that_of_the_whole(stride, monkeypatch):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((12, 9, 9, 3)), jnp.float32)
    size = 8 // stride + 1
    g = jnp.asarray(rng.standard_normal((12, size, size, 4)), jnp.float32)
    padding = ((1, 1), (1, 1))
    whole = convolution._kernel_gradient(x, g, (stride, stride), padding)
    assert convolution._choose_parts(x, g) == 1
    monkeypatch.setattr(convolution, "_choose_parts", lambda x, g: 4)
    parts = convolution._kernel_gradient(x, g, (stride, stride), padding)
    np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-5)


def test_large_batches_on_one_cpu_are_taken_by_parts(monkeypatch):
    def parts(batch, side):
        return convolution._choose_parts(
            jnp.zeros((batch, side, side, 16)), jnp.zeros((batch, side, side, 16))
        )

    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert [parts(batch, 16) for batch in (128, 126, 127, 8)] == [4, 2, 1, 1]
    assert parts(512, 7) == 1
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert parts(128, 16) == 1


def test_other_backends_get_the_gradients_jax_derives(monkeypatch):
    x, w = jnp.zeros((2, 8, 8, 3)), jnp.zeros((3, 3, 3, 4))

    def has_own_gradient():
        return convolution.CANONICAL in str(jax.make_jaxpr(lambda x, w: _ours(x, w, 1))(x, w))

    assert has_own_gradient()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not has_own_gradient()
