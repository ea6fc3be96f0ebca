"""The layers that blocks are made of: convolutions, and convolutions with batch normalisation.

Parameters and running statistics are float32 always; `BlockOptions.dtype` is that of the
computation.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from autogrow_jax import native
from autogrow_jax.errors import UserError
from autogrow_jax.models.convolution import (
    DIMENSION_NUMBERS,
    conv_general_dilated,
    native_conv_general_dilated,
    why_not_native,
)
from autogrow_jax.native import EPSILON

KERNEL_INITS = {
    # U(+-1/sqrt(fan_in)): PyTorch's default, which the paper's networks start from.
    "torch": nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform"),
    # N(0, 2/fan_in), cut at two standard deviations.
    "he": nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal"),
    "lecun": nn.initializers.lecun_normal(),
}
BN_SCALE_INITS = {
    "ones": nn.initializers.ones,
    # U[0, 1): PyTorch's default before 1.2, with which the paper's numbers were made.
    "uniform": nn.initializers.uniform(1.0),
}
XLA, NATIVE = CONVOLUTIONS = ("xla", "native")
SHAPES = "shapes"  # For tracing alone: all others ask JAX for its devices.
_CONVOLVE: dict[str, Any] = {
    XLA: conv_general_dilated,
    NATIVE: native_conv_general_dilated,
    SHAPES: partial(lax.conv_general_dilated, dimension_numbers=DIMENSION_NUMBERS),
}
# Share of the old running statistics that a step keeps; PyTorch calls 1 - 0.9 the momentum.
DECAY = 0.9

Statistics = tuple[jax.Array, jax.Array]  # Mean and variance of each channel.


class BlockOptions(NamedTuple):
    """What all layers of a network share.

    Attributes:
      dtype: of the computation.
      bn_scale_init: where batch normalisation's scale starts, of `BN_SCALE_INITS`.
      kernel_init: where convolutions and the linear layer start, of `KERNEL_INITS`; "torch" draws
        biases likewise, others start them at zero.
      convolution: "xla", or "native" for the package's own kernels, which a C++ compiler builds on
        first use; they serve float32 on a CPU, and XLA everything else.
    """

    dtype: Any = jnp.float32
    bn_scale_init: str = "ones"
    kernel_init: str = "torch"
    convolution: str = XLA

    def check(self) -> None:
        """Raises UserError where an option is not one of those above."""
        starts = ("bn_scale_init", BN_SCALE_INITS), ("kernel_init", KERNEL_INITS)
        for name, accepted in (*starts, ("convolution", CONVOLUTIONS)):
            value = getattr(self, name)
            if value not in accepted:
                raise UserError(f"{name} is {value!r}; choose one of {', '.join(accepted)}")

    def bias_init(self, fan_in: int) -> nn.initializers.Initializer:
        """Returns the start of a bias behind `fan_in` inputs."""
        if self.kernel_init != "torch":
            return nn.initializers.zeros
        bound = fan_in**-0.5
        return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
            key, shape, dtype, -bound, bound
        )

    @property
    def is_native(self) -> bool:
        """Whether the package's own kernels are asked for, and can be used here."""
        return self.convolution == NATIVE and not why_not_native()


def conv(
    options: BlockOptions, features: int, size: int, stride: int, in_features: int, **kwargs
) -> nn.Conv:
    """Makes a `size` x `size` convolution padded by (size - 1) / 2 on all sides."""
    return nn.Conv(
        features,
        (size, size),
        stride,
        (size - 1) // 2,
        dtype=options.dtype,
        kernel_init=KERNEL_INITS[options.kernel_init],
        bias_init=options.bias_init(in_features * size * size),
        conv_general_dilated=_CONVOLVE[options.convolution],
        **kwargs,
    )


class BatchNorm(nn.Module):
    """Normalises each channel by the batch's statistics, or by the running ones.

    Flax's own differs in one thing that is seen after a few steps: its running variance averages
    the variance of the batch as it is, PyTorch's the unbiased one, n / (n - 1) times as large. In
    a last stage of 4x4 pixels and a batch of 8 that is 0.8 % of the variance.
    """

    options: BlockOptions
    train: bool

    @nn.compact
    def __call__(self, x: Any, layer: Callable[..., Any] | None = None) -> jax.Array:
        """Normalises [..., C] over all but the last axis.

        A `layer` does it in one with what computes the array, of which `x` has the shape then:
        (scale, bias, running statistics, or None for the batch's own) -> (array, mean, variance).
        """
        channels = (x.shape[-1],)
        start = BN_SCALE_INITS[self.options.bn_scale_init]
        scale = self.param("scale", start, channels, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        # They may have been stored as something else.
        scale, bias, *known = (a.astype(jnp.float32) for a in (scale, bias, mean.value, var.value))
        running = (known[0], known[1]) if not self.train else None
        normalize = layer or partial(_normalize, x, self.options.dtype)
        y, *found = normalize(scale, bias, running)
        is_mutable = self.is_mutable_collection("batch_stats")
        if running is None and is_mutable and not self.is_initializing():
            old, count = (mean.value, var.value), math.prod(x.shape[:-1])
            mean.value, var.value = move_statistics(old, tuple(found), count)
        return y


def _normalize(x, dtype, scale, bias, running):
    wide = x.astype(jnp.float32)
    if running is None:
        axes = tuple(range(x.ndim - 1))
        mean = jnp.mean(wide, axes)
        # E[x^2] - E[x]^2 needs one pass over x; rounding may take it below zero.
        running = mean, jnp.maximum(jnp.mean(lax.square(wide), axes) - lax.square(mean), 0.0)
    mean, var = running
    factor = scale * lax.rsqrt(var + EPSILON)

    def broadcast(channel_values):  # Silent promotion of ranks may be an error.
        return channel_values.reshape((1,) * (x.ndim - 1) + channel_values.shape)

    y = (wide - broadcast(mean)) * broadcast(factor) + broadcast(bias)
    return y.astype(dtype), mean, var


def move_statistics(running: Statistics, found: Statistics, count: int) -> Statistics:
    """Returns mean and variance [..., C] after a batch of `count` values, `found` biased."""
    unbiased = found[1] * (count / max(count - 1, 1))
    pairs = zip(running, (found[0], unbiased), strict=True)
    mean, var = (DECAY * old + (1 - DECAY) * new for old, new in pairs)
    return mean, var


class _Kernel(nn.Module):
    """The parameter of an `nn.Conv` without bias, which something else convolves with."""

    shape: tuple[int, ...]
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self) -> jax.Array:
        kernel = self.param("kernel", self.kernel_init, self.shape, jnp.float32)
        return kernel.astype(jnp.float32)  # It may have been stored as something else.


class ConvBN(NamedTuple):
    """A convolution, its batch normalisation, what is added behind it, ReLU.

    Called in a block's `__call__`, it keeps its variables there under two names. XLA computes it
    step by step, or one of the package's own kernels all of it.

    Attributes:
      options: of the network.
      names: of the convolution's and the normalisation's variables.
      features: F of the convolution.
      size: of its kernel, which is padded by (size - 1) / 2 on all sides.
      stride: steps between outputs in pixels.
      relu: whether negative values become zero.
    """

    options: BlockOptions
    names: tuple[str, str]
    features: int
    size: int
    stride: int = 1
    relu: bool = True

    def __call__(self, x: jax.Array, train: bool, addend: jax.Array | None = None) -> jax.Array:
        """Maps images [N, H, W, C] to [N, OH, OW, F].

        An `addend` of that shape is added in front of the ReLU, which there has to be.
        """
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = _Kernel(shape, KERNEL_INITS[self.options.kernel_init], name=self.names[0])()
        normalization = BatchNorm(self.options, train, name=self.names[1])
        strides, padding = (self.stride, self.stride), (((self.size - 1) // 2,) * 2,) * 2
        if not (self.options.is_native and native.is_supported(x, shape, strides)):
            x, kernel = (a.astype(self.options.dtype) for a in (x, kernel))
            y = _CONVOLVE[self.options.convolution](x, kernel, strides, padding)
            y = normalization(checkpoint_name(y, native.KEPT))
            y = y if addend is None else y + addend
            return nn.relu(y) if self.relu else y

        def layer(scale, bias, running):
            operands, where = (x, kernel, scale, bias), (addend, strides, padding, self.relu)
            if running is None:
                return native.layer(*operands, *where)
            return native.evaluated_layer(*operands, *running, *where), *running

        out = native.output_shape(x.shape, shape, strides, padding)
        return normalization(jax.ShapeDtypeStruct(out, x.dtype), layer)
