"""Two-dimensional convolution whose gradients stay fast inside a loop.

XLA's CPU backend rewrites convolutions into the form its fast kernel takes in the entry
computation only. In the body of a loop the gradient convolutions that autodiff writes keep their
reversed kernels and swapped dimensions and fall to a naive loop nest, 20 to 90 times slower.
The blocks of a stage run in a loop here, and so do the steps of an epoch, so all three
convolutions are written in the one form that needs no rewriting: `NHWC, HWIO -> NHWC`, without
kernel reversal. `benchmarks/convolution.py` measures whether this is still needed. Other backends
are given the gradients that JAX derives, which their libraries know by sight.
"""

from collections.abc import Sequence
from functools import partial
from math import gcd
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from autogrow_jax import native
from autogrow_jax.derivatives import make_bilinear
from autogrow_jax.macs import CANONICAL

DIMENSION_NUMBERS = ("NHWC", "HWIO", "NHWC")

# Outputs of up to so many pixels are computed as one matrix product: at 2x2 pixels and 64 channels
# XLA's CPU convolution takes ten times as long as that (512 channels: forty times).
_MATRIX_PRODUCT_PIXELS = 4

# A kernel's gradient is summed by so many parts of the batch, where images have at least so many
# pixels and a batch of them so many values.
_PARTS, _LEAST_PIXELS, _LEAST_VALUES = 4, 64, 2**18

Padding = tuple[tuple[int, int], tuple[int, int]]

_convolve = partial(lax.conv_general_dilated, dimension_numbers=DIMENSION_NUMBERS)


def _convolve_undilated(x, kernel, strides, padding):
    """`_convolve`, or the same as a matrix product where the output is tiny."""
    height, width, channels, features = kernel.shape
    rows = (x.shape[1] + sum(padding[0]) - height) // strides[0] + 1
    columns = (x.shape[2] + sum(padding[1]) - width) // strides[1] + 1
    if rows * columns > _MATRIX_PRODUCT_PIXELS or height * width == 1:
        return _convolve(x, kernel, strides, padding)
    edges = [(0, 0, 0), *((*ends, 0) for ends in padding), (0, 0, 0)]
    x = lax.pad(x, jnp.zeros((), x.dtype), edges)
    # From the first to the last pixel that a kernel's entry meets, in rows and columns.
    high, wide = (rows - 1) * strides[0] + 1, (columns - 1) * strides[1] + 1
    patches = [
        lax.slice(x, (0, i, j, 0), (len(x), i + high, j + wide, channels), (1, *strides, 1))
        for i in range(height)
        for j in range(width)
    ]
    return jnp.concatenate(patches, axis=-1) @ kernel.reshape(-1, features)


def convolution(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Padding
) -> jax.Array:
    """Convolves `x` with `kernel`, its derivatives of any kind in canonical form too.

    Args:
      x: images [N, H, W, C].
      kernel: [KH, KW, C, F], of the same dtype as `x`.
      strides: steps between outputs in pixels, (vertical, horizontal).
      padding: zeros added before and after, ((top, bottom), (left, right)).

    Returns:
      [N, OH, OW, F] with OH = (H + top + bottom - KH) // strides[0] + 1, and OW likewise.
    """
    out = native.output_shape(x.shape, kernel.shape, strides, padding)
    sizes = x.shape[1:3], kernel.shape[:2], out[1:3]
    return _primitive.bind(x, kernel, wanted=_OUTPUT, sizes=sizes, strides=strides, padding=padding)


# Images, kernel and output: of any two follows the third, each way a derivative of the others.
_INPUT, _KERNEL, _OUTPUT = range(3)
# The axis of the first that the second has too, and not the third: N, N, C, C, F, F.
_SHARED = {(0, 2): -4, (2, 0): -4, (0, 1): -1, (1, 0): -2, (1, 2): -1, (2, 1): -1}


def _compute(a, b, *, wanted, sizes, strides, padding):
    """What is `wanted` of the other two; `sizes` are height and width of all three."""
    if wanted == _OUTPUT:
        return _convolve_undilated(a, b, strides, padding)
    input_padding, kernel_padding = [], []
    for size, k, out, (low, _), stride in zip(*sizes, padding, strides, strict=True):
        spread = (out - 1) * stride + 1  # Of the output, stride - 1 zeros between its entries.
        input_padding.append((k - 1 - low, size + low - spread))
        # Rows that no output window reaches are cut away by a negative padding.
        kernel_padding.append((low, k - 1 + spread - size - low))
    if wanted == _KERNEL:
        return _kernel_gradient(a, b, strides, kernel_padding)
    flipped = jnp.swapaxes(jnp.flip(a, (0, 1)), 2, 3)
    if strides == (1, 1):
        return _convolve_undilated(b, flipped, (1, 1), input_padding)
    return _convolve(b, flipped, (1, 1), input_padding, lhs_dilation=strides)


_primitive = make_bilinear(CANONICAL, _compute, _SHARED, ("sizes", "strides", "padding"))


def _kernel_gradient(x, g, strides, padding):
    """Of a batch, or the sum of those of its parts, where that is faster."""
    parts = _choose_parts(x, g)

    def of_part(x, g):
        # x^T [C, H, W, N] * g^T [OH, OW, N, F] -> [C, KH, KW, F]
        x, g = jnp.transpose(x, (3, 1, 2, 0)), jnp.transpose(g, (1, 2, 0, 3))
        found = _convolve(x, g, (1, 1), padding, rhs_dilation=strides)
        return jnp.transpose(found, (1, 2, 0, 3))

    if parts == 1:
        return of_part(x, g)
    split = [a.reshape(parts, -1, *a.shape[1:]) for a in (x, g)]
    # Not in a loop, as XLA computes them side by side with the gradient of x.
    return sum(of_part(*(a[i] for a in split)) for i in range(parts))


def _choose_parts(x, g) -> int:
    """How many parts of a batch to take the kernel's gradient of.

    Images are channels there, and XLA's CPU backend is slow with many, most of all where it
    transposes them: by quarters, large ones take half to three quarters of the time
    (`benchmarks/formulations.py`). A batch that is spread over devices stays whole.
    """
    if jax.default_backend() != "cpu" or jax.device_count() > 1:
        return 1
    if min(x.size, g.size) < _LEAST_VALUES or g.shape[1] * g.shape[2] < _LEAST_PIXELS:
        return 1
    return gcd(x.shape[0], _PARTS)


def why_not_native() -> str:
    """Why this process cannot use the package's own convolutions, one line; "" where it can.

    The first call on a machine builds them, which takes a C++ compiler some ten seconds.
    """
    backend = jax.default_backend()
    return native.why_unavailable() if backend == "cpu" else f"the backend is {backend}, not cpu"


def conv_general_dilated(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Any,
    *,
    is_native: bool = False,
    **others: Any,
) -> jax.Array:
    """Convolves behind the signature that `flax.linen.Conv(conv_general_dilated=)` calls.

    XLA computes it, in canonical form where that is the CPU's; where `is_native`, the package's own
    kernels as far as they can, equal up to rounding.

    Raises:
      NotImplementedError: for what none of our blocks uses.
    """
    steps = *(others.get("lhs_dilation") or ()), *(others.get("rhs_dilation") or ())
    dilated, grouped = {*steps} - {1}, others.get("feature_group_count", 1) != 1
    if dilated or grouped or isinstance(padding, str) or others.get("precision") is not None:
        raise NotImplementedError(
            "the canonical-form convolution takes explicit padding and neither dilation,"
            " groups nor a precision; use jax.lax.conv_general_dilated in this block"
        )
    row, column = strides
    (top, bottom), (left, right) = padding
    where = (row, column), ((top, bottom), (left, right))
    is_native = is_native and kernel.dtype == jnp.float32
    if is_native and native.is_supported(x, kernel.shape, where[0]) and not why_not_native():
        return native.forward(x, kernel, *where)
    is_here = jax.default_backend() == "cpu" and isinstance(x.shape[0], int)  # Else exported.
    return (convolution if is_here else _convolve)(x, kernel, *where)


native_conv_general_dilated = partial(conv_general_dilated, is_native=True)
