"""A convolution, its batch normalisation and a ReLU as one layer, with gradients of its own.

What a convolution reads is normalised while it is read and its statistics are taken while it is
written, so that a layer goes over memory a third as often as its parts would.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from autogrow_jax.derivatives import reverse_mode
from autogrow_jax.native import convolution
from autogrow_jax.native.convolution import Padding, geometry, output_shape
from autogrow_jax.native.targets import NO_FORWARD, call

# Of batch normalisation; the custom calls hold the same.
EPSILON = 1e-5
# Names for `jax.checkpoint` what is kept for a gradient; the rest is cheap to compute again.
KEPT = "convolution_output"


def _or_nothing(addend: jax.Array | None) -> jax.Array:
    return jnp.zeros((0,), jnp.float32) if addend is None else addend


@reverse_mode(5, 6, 7, forward=NO_FORWARD)
def layer(
    x: jax.Array,
    kernel: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    addend: jax.Array | None,
    strides: tuple[int, int],
    padding: Padding,
    relu: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Convolves, normalises by the batch's statistics, adds, and takes what is above zero.

    Args:
      x: images [N, H, W, C]; all operands are float32, as `convolution.is_supported` says.
      kernel: [KH, KW, C, F].
      scale, bias: of the normalisation, [F].
      addend: [N, OH, OW, F], added behind the normalisation; None for nothing. Needs `relu`.
      strides: steps between outputs in pixels, (vertical, horizontal).
      padding: zeros added before and after, ((top, bottom), (left, right)).
      relu: whether negative values become zero.

    Returns:
      The images [N, OH, OW, F] and what they were normalised by, mean and biased variance [F],
      through which no gradient flows.
    """
    return _train(x, kernel, scale, bias, addend, strides, padding, relu)[0]


def _check_addend(addend, shape):
    if addend is not None and addend.shape != shape:
        raise ValueError(f"what is added has shape {addend.shape}, the output {shape}")


def _train(x, kernel, scale, bias, addend, strides, padding, relu):
    shape, channels = output_shape(x.shape, kernel.shape, strides, padding), scale.shape
    _check_addend(addend, shape)
    if addend is not None and not relu:
        raise ValueError("only in front of a ReLU can something be added")
    z, y, mean, variance = call(
        "autogrow_layer",
        [shape, shape, channels, channels],
        *(x, kernel, scale, bias, _or_nothing(addend)),
        **geometry(strides, padding, relu),
    )
    # All of them: what is computed again computes them all.
    z, y, mean, variance = (checkpoint_name(a, KEPT) for a in (z, y, mean, variance))
    return (z, mean, variance), (x, kernel, scale, bias, addend, y, mean, variance)


def _pullback(strides, padding, relu, saved, cotangents):
    x, kernel, scale, bias, addend, y, mean, variance = saved
    g, _, _ = cotangents
    added = _or_nothing(addend)
    grad_scale, grad_bias, passed = call(
        "autogrow_normalization_gradient",
        [scale.shape, scale.shape, added.shape],
        *(y, g, scale, bias, mean, variance, added),
        relu=relu,
    )
    # Where something was added, the mask is on what has passed already.
    of_output = (y, g) if addend is None else (y, passed)
    gradient = (*of_output, scale, bias, mean, variance, grad_scale, grad_bias)
    attributes = geometry(strides, padding, relu and addend is None)
    # Two calls, as nobody asks for the gradient of a network's images.
    (grad_x,) = call("autogrow_layer_input_gradient", [x.shape], kernel, *gradient, **attributes)
    (grad_kernel,) = call(
        "autogrow_layer_kernel_gradient", [kernel.shape], x, *gradient, **attributes
    )
    return grad_x, grad_kernel, grad_scale, grad_bias, None if addend is None else passed


layer.defvjp(_train, _pullback)


@reverse_mode(7, 8, 9, forward=NO_FORWARD)
def evaluated_layer(
    x: jax.Array,
    kernel: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    mean: jax.Array,
    variance: jax.Array,
    addend: jax.Array | None,
    strides: tuple[int, int],
    padding: Padding,
    relu: bool,
) -> jax.Array:
    """`layer` by the statistics that are given, `mean` and `variance` [F]."""
    shape = output_shape(x.shape, kernel.shape, strides, padding)
    _check_addend(addend, shape)
    operands = (x, kernel, scale, bias, mean, variance, _or_nothing(addend))
    attributes = geometry(strides, padding, relu)
    return call("autogrow_evaluated_layer", [shape], *operands, **attributes)[0]


def _by_parts(operands, strides, padding, relu):
    """The same in steps that can be differentiated."""
    x, kernel, scale, bias, mean, variance, addend = operands
    y = convolution.forward(x, kernel, strides, padding)
    z = (y - mean) * (scale * lax.rsqrt(variance + EPSILON)) + bias
    z = z if addend is None else z + addend
    return jax.nn.relu(z) if relu else z


def _evaluate(*arguments):
    return evaluated_layer(*arguments), arguments[:7]


def _evaluated_pullback(strides, padding, relu, operands, g):
    def run(*operands):
        return _by_parts(operands, strides, padding, relu)

    return jax.vjp(run, *operands)[1](g)


evaluated_layer.defvjp(_evaluate, _evaluated_pullback)
