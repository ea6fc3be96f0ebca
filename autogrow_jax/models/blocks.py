"""The blocks of the paper's networks (PAPER: section "Networks").

A block is a linen module called as `block(x, train)`, [N, H, W, C] -> [N, H', W', features], with
fields `features`, `stride` and `options`. The first block of a stage has the stage's stride and
changes the width; all others keep the shape, which is what lets a stage stack their parameters.
"""

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name

from autogrow_jax import native
from autogrow_jax.models.chain import Chain
from autogrow_jax.models.layers import BlockOptions, ConvBN, conv


class Block(nn.Module):
    """The fields that all blocks have."""

    features: int
    stride: int = 1
    options: BlockOptions = BlockOptions()


def _conv_bn(block, index, features, size, stride=1, relu=True) -> ConvBN:
    return ConvBN(block.options, (f"conv{index}", f"bn{index}"), features, size, stride, relu)


def _shortcut(block, x, train):
    if block.stride == 1 and x.shape[-1] == block.features:
        return x
    names = "shortcut_conv", "shortcut_bn"
    return ConvBN(block.options, names, block.features, 1, block.stride, relu=False)(x, train)


class PlainBlock(Block):
    """One 3x3 convolution, batch normalisation, ReLU; no shortcut."""

    @Chain(num_layers=1, residual=False).describes
    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return _conv_bn(self, 1, self.features, 3, self.stride)(x, train)


class PlainBlockNoBN(Block):
    """One 3x3 convolution with bias, ReLU."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        x = conv(self.options, self.features, 3, self.stride, x.shape[-1], name="conv1")(x)
        return nn.relu(checkpoint_name(x, native.KEPT))


class BasicBlock(Block):
    """Two 3x3 convolutions with batch normalisation, added to the shortcut."""

    @Chain(num_layers=2, residual=True).describes
    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = _conv_bn(self, 1, self.features, 3, self.stride)(x, train)
        return _conv_bn(self, 2, self.features, 3)(y, train, _shortcut(self, x, train))


class SwitchBlock(Block):
    """A `BasicBlock` whose residual branch is multiplied by a learnable scalar; it starts at 1."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = _conv_bn(self, 1, self.features, 3, self.stride)(x, train)
        shortcut = _shortcut(self, x, train)
        y = _conv_bn(self, 2, self.features, 3, relu=False)(y, train)
        switch = self.param("switch", nn.initializers.ones, (1,))
        return nn.relu(y * switch.reshape((1, 1, 1, 1)).astype(y.dtype) + shortcut)


class BottleneckBlock(Block):
    """1x1, 3x3 (with the stride) and 1x1 convolutions, the last four times as wide."""

    @Chain(num_layers=3, residual=True).describes
    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = _conv_bn(self, 1, self.features // 4, 1)(x, train)
        y = _conv_bn(self, 2, self.features // 4, 3, self.stride)(y, train)
        return _conv_bn(self, 3, self.features, 1)(y, train, _shortcut(self, x, train))
