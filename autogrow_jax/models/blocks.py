"""The blocks of the paper's networks (PAPER: section "Networks").

A block is a linen module called as `block(x, train)`, [N, H, W, C] -> [N, H', W', features], with
fields `features`, `stride` and `options`. The first block of a stage has the stage's stride and
changes the width; all others keep the shape, which is what lets a stage stack their parameters.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from autogrow_jax import native
from autogrow_jax.errors import UserError
from autogrow_jax.models.convolution import (
    conv_general_dilated,
    native_conv_general_dilated,
    why_not_native,
)
from autogrow_jax.models.normalization import BatchNorm
from autogrow_jax.models.stack import KEPT

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
CONVOLUTIONS = ("xla", "native")


class BlockOptions(NamedTuple):
    """What all layers of a network share.

    Attributes:
      dtype: of the computation; parameters and running statistics are float32 always.
      bn_scale_init: "ones" or "uniform" (U[0, 1), PyTorch's default when the paper was written).
      kernel_init: "torch" (U(+-1/sqrt(fan_in)), biases too), "he" or "lecun" (biases zero).
      convolution: "xla", or "native" for the package's own kernels where they can be used: a CPU
        and float32.
    """

    dtype: Any = jnp.float32
    bn_scale_init: str = "ones"
    kernel_init: str = "torch"
    convolution: str = "xla"

    def check(self) -> None:
        """Raises UserError where an option is not one of those above."""
        for name, accepted in (
            ("bn_scale_init", BN_SCALE_INITS),
            ("kernel_init", KERNEL_INITS),
            ("convolution", CONVOLUTIONS),
        ):
            value = getattr(self, name)
            if value not in accepted:
                raise UserError(f"{name} is {value!r}; choose one of {', '.join(accepted)}")

    def bias_init(self, fan_in: int) -> nn.initializers.Initializer:
        """The start of a bias behind `fan_in` inputs."""
        if self.kernel_init != "torch":
            return nn.initializers.zeros
        bound = fan_in**-0.5
        return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
            key, shape, dtype, -bound, bound
        )


def is_native(options: BlockOptions) -> bool:
    """Whether the package's own kernels are asked for, and can be used here."""
    return options.convolution == "native" and not why_not_native()


def conv(
    options: BlockOptions, features: int, size: int, stride: int, in_features: int, **kwargs
) -> nn.Conv:
    """A `size` x `size` convolution padded by (size - 1) / 2 on all sides."""
    pad = (size - 1) // 2
    return nn.Conv(
        features,
        (size, size),
        (stride, stride),
        ((pad, pad), (pad, pad)),
        dtype=options.dtype,
        kernel_init=KERNEL_INITS[options.kernel_init],
        bias_init=options.bias_init(in_features * size * size),
        conv_general_dilated=(
            native_conv_general_dilated if options.convolution == "native" else conv_general_dilated
        ),
        **kwargs,
    )


def batch_norm(options: BlockOptions, train: bool, **kwargs) -> BatchNorm:
    """Batch normalisation with the paper's constants; `train` picks the batch's statistics."""
    return BatchNorm(
        use_running_average=not train,
        dtype=options.dtype,
        scale_init=BN_SCALE_INITS[options.bn_scale_init],
        **kwargs,
    )


class Chain(NamedTuple):
    """What lets the package's own kernels run a whole stack of blocks.

    A block is convolutions of stride 1 with the names `conv1`, `conv2`..., each with batch
    normalisation, `bn1`, `bn2`..., and a ReLU behind it.

    Attributes:
      num_layers: convolutions.
      residual: whether the block's input is added before the last ReLU.
    """

    num_layers: int
    residual: bool


def find_chain(block: nn.Module) -> Chain | None:
    """What `block.chain()` says, if it says so of the `__call__` that the block has.

    A block derived from one of the package's, with a `__call__` of its own, is another block.
    """
    classes = type(block).__mro__

    def place(name: str) -> int:
        return next((i for i, one in enumerate(classes) if name in vars(one)), len(classes))

    return block.chain() if place("chain") <= place("__call__") < len(classes) else None


class Kernel(nn.Module):
    """The parameter of an `nn.Conv` without bias, which something else convolves with."""

    shape: tuple[int, ...]
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self) -> jax.Array:
        kernel = self.param("kernel", self.kernel_init, self.shape, jnp.float32)
        return kernel.astype(jnp.float32)  # It may have been stored as something else.


def conv_bn(
    options: BlockOptions,
    x: jax.Array,
    features: int,
    size: int,
    stride: int,
    train: bool,
    names: tuple[str, str],
    addend: jax.Array | None = None,
    relu: bool = True,
) -> jax.Array:
    """A convolution, its batch normalisation, what is added behind it, ReLU.

    Args:
      options: of the network.
      x: images [N, H, W, C].
      features: F of the convolution.
      size: of its kernel, which is padded by (size - 1) / 2 on all sides.
      stride: steps between outputs in pixels.
      train: whether the batch's statistics normalise.
      names: of the convolution's and the normalisation's variables.
      addend: [N, OH, OW, F] or None; needs `relu`.
      relu: whether negative values become zero.

    Returns:
      [N, OH, OW, F].
    """
    conv_name, bn_name = names
    normalization = batch_norm(options, train, name=bn_name)
    kernel_shape = (size, size, x.shape[-1], features)
    if is_native(options) and native.is_supported(x, kernel_shape, (stride, stride)):
        kernel = Kernel(kernel_shape, KERNEL_INITS[options.kernel_init], name=conv_name)()
        pad = ((size - 1) // 2,) * 2
        where = ((stride, stride), (pad, pad), relu)

        def layer(scale, bias, running):
            if running is None:
                return native.layer(x, kernel, scale, bias, addend, *where)
            return native.evaluated_layer(
                x, kernel, scale, bias, *running, addend, *where
            ), *running

        shape = native.output_shape(x.shape, kernel_shape, *where[:2])
        return normalization(jax.ShapeDtypeStruct(shape, x.dtype), layer)
    x = conv(options, features, size, stride, x.shape[-1], use_bias=False, name=conv_name)(x)
    y = normalization(checkpoint_name(x, KEPT))
    y = y if addend is None else y + addend
    return nn.relu(y) if relu else y


def _conv_bn(block, x, features, size, stride, train, index, addend=None, relu=True):
    names = f"conv{index}", f"bn{index}"
    return conv_bn(block.options, x, features, size, stride, train, names, addend, relu)


def _shortcut(block, x, features, train):
    if block.stride == 1 and x.shape[-1] == features:
        return x
    names = "shortcut_conv", "shortcut_bn"
    return conv_bn(block.options, x, features, 1, block.stride, train, names, relu=False)


class PlainBlock(nn.Module):
    """One 3x3 convolution, batch normalisation, ReLU; no shortcut."""

    features: int
    stride: int = 1
    options: BlockOptions = BlockOptions()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return _conv_bn(self, x, self.features, 3, self.stride, train, 1)

    def chain(self) -> Chain | None:
        """See `Chain`."""
        return Chain(num_layers=1, residual=False)


class PlainBlockNoBN(nn.Module):
    """One 3x3 convolution with bias, ReLU."""

    features: int
    stride: int = 1
    options: BlockOptions = BlockOptions()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        x = conv(self.options, self.features, 3, self.stride, x.shape[-1], name="conv1")(x)
        return nn.relu(checkpoint_name(x, KEPT))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch normalisation, added to the shortcut.

    Attributes:
      switch: multiply the residual branch by a learnable scalar that starts at 1.
    """

    features: int
    stride: int = 1
    options: BlockOptions = BlockOptions()
    switch: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = _conv_bn(self, x, self.features, 3, self.stride, train, 1)
        shortcut = _shortcut(self, x, self.features, train)
        if not self.switch:
            return _conv_bn(self, y, self.features, 3, 1, train, 2, shortcut)
        y = _conv_bn(self, y, self.features, 3, 1, train, 2, relu=False)
        switch = self.param("switch", nn.initializers.ones, (1,))
        return nn.relu(y * switch.reshape((1, 1, 1, 1)).astype(y.dtype) + shortcut)

    def chain(self) -> Chain | None:
        """See `Chain`; the switch is none of what it says."""
        return None if self.switch else Chain(num_layers=2, residual=True)


class BottleneckBlock(nn.Module):
    """1x1, 3x3 (with the stride) and 1x1 convolutions, the last four times as wide."""

    features: int
    stride: int = 1
    options: BlockOptions = BlockOptions()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        width = self.features // 4
        y = _conv_bn(self, x, width, 1, 1, train, 1)
        y = _conv_bn(self, y, width, 3, self.stride, train, 2)
        shortcut = _shortcut(self, x, self.features, train)
        return _conv_bn(self, y, self.features, 1, 1, train, 3, shortcut)

    def chain(self) -> Chain | None:
        """See `Chain`."""
        return Chain(num_layers=3, residual=True)
