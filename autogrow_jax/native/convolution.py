"""The three convolutions of a layer as custom calls of XLA's CPU backend.

Float32 sums run in an order that the shapes alone fix, whatever the number of threads: the same
inputs give the same bits on the same machine. The order is not XLA's, so the last bits differ from
those of `lax.conv_general_dilated`; and a value that is not finite reaches all of the 4x4 outputs
that Winograd's filtering computes together.
"""

from typing import Any

import jax
import jax.numpy as jnp

from autogrow_jax.derivatives import reverse_mode
from autogrow_jax.native.targets import NO_FORWARD, call

Padding = tuple[tuple[int, int], tuple[int, int]]


def is_supported(x: Any, kernel_shape: tuple[int, ...], strides: tuple[int, int]) -> bool:
    """Whether the custom calls take such a convolution: float32, [N, H, W, C], stride up to 2.

    Args:
      x: of this dtype and shape, as the kernel is of its.
      kernel_shape: [KH, KW, C, F].
      strides: (vertical, horizontal).
    """
    sizes = (*x.shape, *kernel_shape)
    return x.dtype == jnp.float32 and len(x.shape) == 4 and 0 not in sizes and strides[1] <= 2


def empty(shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """An array of no particular values: what is written before it is read needs no zeros first."""
    return jax.ffi.ffi_call("autogrow_empty", jax.ShapeDtypeStruct(shape, dtype))()


def geometry(
    strides: tuple[int, int], padding: Padding, relu: bool = False
) -> dict[str, int | bool]:
    """Where a kernel is laid on the images, as attributes of a custom call."""
    (top, _), (left, _) = padding
    row, column = strides
    return {"row_stride": row, "column_stride": column, "top": top, "left": left, "relu": relu}


def _call(target: str, shape: tuple[int, ...], a, b, strides, padding):
    return call(target, [shape], a, b, **geometry(strides, padding))[0]


def output_shape(
    x: tuple[int, ...], kernel: tuple[int, ...], strides: tuple[int, int], padding: Padding
) -> tuple[int, ...]:
    """The shape [N, OH, OW, F] of a convolution of shapes x and kernel."""
    sizes = zip(x[1:3], padding, kernel[:2], strides, strict=True)
    out = (max((size + sum(pad) - k) // stride + 1, 0) for size, pad, k, stride in sizes)
    return (x[0], *out, kernel[3])


@reverse_mode(2, 3, forward=NO_FORWARD)
def forward(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Padding
) -> jax.Array:
    """Convolves x [N, H, W, C] with kernel [KH, KW, C, F]; [N, OH, OW, F].

    Args:
      x: float32, as `is_supported` says.
      kernel: float32.
      strides: steps between outputs in pixels, (vertical, horizontal).
      padding: zeros added before and after, ((top, bottom), (left, right)).
    """
    shape = output_shape(x.shape, kernel.shape, strides, padding)
    return _call("autogrow_forward", shape, x, kernel, strides, padding)


@reverse_mode(2, 3, 4, forward=NO_FORWARD)
def input_gradient(
    g: jax.Array,
    kernel: jax.Array,
    size: tuple[int, int],
    strides: tuple[int, int],
    padding: Padding,
) -> jax.Array:
    """The gradient [N, H, W, C] of `forward`'s x of H x W = `size` pixels.

    Args:
      g: the gradient of the output, [N, OH, OW, F].
      kernel: of the convolution, [KH, KW, C, F].
      size: of x, (H, W).
      strides, padding: of the convolution.
    """
    shape = (g.shape[0], *size, kernel.shape[2])
    return _call("autogrow_input_gradient", shape, g, kernel, strides, padding)


@reverse_mode(2, 3, 4, forward=NO_FORWARD)
def kernel_gradient(
    x: jax.Array,
    g: jax.Array,
    size: tuple[int, int],
    strides: tuple[int, int],
    padding: Padding,
) -> jax.Array:
    """The gradient [KH, KW, C, F] of `forward`'s kernel of KH x KW = `size`.

    Args:
      x: [N, H, W, C].
      g: the gradient of the output, [N, OH, OW, F].
      size: of the kernel, (KH, KW).
      strides, padding: of the convolution.
    """
    shape = (*size, x.shape[3], g.shape[3])
    return _call("autogrow_kernel_gradient", shape, x, g, strides, padding)


# A convolution is linear in either operand, so the three are each other's gradients, too.


def _forward_pullback(strides, padding, operands, ct):
    x, kernel = operands
    grad_x = input_gradient(ct, kernel, x.shape[1:3], strides, padding)
    return grad_x, kernel_gradient(x, ct, kernel.shape[:2], strides, padding)


def _input_gradient_pullback(size, strides, padding, operands, ct):
    g, kernel = operands
    grad_g = forward(ct, kernel, strides, padding)
    return grad_g, kernel_gradient(ct, g, kernel.shape[:2], strides, padding)


def _kernel_gradient_pullback(size, strides, padding, operands, ct):
    x, g = operands
    grad_x = input_gradient(g, ct, x.shape[1:3], strides, padding)
    return grad_x, forward(x, ct, strides, padding)


def _keep_operands(function):
    def run(a, b, *static):
        return function(a, b, *static), (a, b)

    return run


forward.defvjp(_keep_operands(forward), _forward_pullback)
input_gradient.defvjp(_keep_operands(input_gradient), _input_gradient_pullback)
kernel_gradient.defvjp(_keep_operands(kernel_gradient), _kernel_gradient_pullback)
