"""The network as one would write it without growth in mind: a Python loop over blocks.

What the padded network is measured against. It takes the same values as `Network` does, but one
set of variables for each block, at exact depth, and keeps whatever autodiff keeps.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from autogrow_jax.models import BlockOptions, Family, get_family
from autogrow_jax.models.blocks import PlainBlock
from autogrow_jax.models.layers import DECAY, EPSILON

MakeBlock = Callable[..., nn.Module]
Tree = Any


class FlaxBlock(nn.Module):
    """`PlainBlock` from Flax's own layers, whose gradients are those JAX derives.

    Its running variance is the biased one: nothing that takes time.
    """

    features: int
    stride: int = 1
    options: BlockOptions = BlockOptions()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.Conv(
            self.features,
            (3, 3),
            (self.stride, self.stride),
            ((1, 1), (1, 1)),
            use_bias=False,
            name="conv1",
        )(x)
        x = nn.BatchNorm(not train, momentum=DECAY, epsilon=EPSILON, name="bn1")(x)
        return nn.relu(x)


class Unrolled(nn.Module):
    """A network of three stages with `depths` blocks, one after the other, for ten classes.

    Attributes:
      depths: blocks in each stage.
      family: the family, or its name.
      block: what to build a plain family from instead, such as `FlaxBlock`.
      options: of all layers.
    """

    num_classes: ClassVar[int] = 10
    depths: tuple[int, ...]
    family: str | Family = "plain3"
    block: MakeBlock | None = None
    options: BlockOptions = BlockOptions()

    @nn.compact
    def __call__(self, images: jax.Array, train: bool, live_depths: jax.Array) -> jax.Array:
        """Logits [N, 10] of images [N, H, W, C]; `live_depths` is for the padded network only."""
        del live_depths
        family = get_family(self.family)
        make_block, options = self.block or family.block, self.options
        # A plain block with stride 1 is what the stem is.
        make_stem = self.block or PlainBlock
        x = make_stem(features=family.stem_width, options=options, name="stem")(images, train)
        for stage, depth in enumerate(self.depths):
            for number in range(depth):
                x = make_block(
                    features=family.widths[stage],
                    stride=2 if stage and number == 0 else 1,
                    options=options,
                    name=block_name(stage, number),
                )(x, train)
        return nn.Dense(10, name="head")(jnp.mean(x.astype(jnp.float32), axis=(1, 2)))


def block_name(stage: int, number: int) -> str:
    """Where a block's variables are: number counts from 0 within the stage."""
    return f"stage{stage}_block{number}"


def unroll(collection: Tree, depths: tuple[int, ...]) -> Tree:
    """`Network`'s params or batch_stats at exact depth, as `Unrolled` names them."""
    unrolled = {"stem": {"bn1": collection["stem_bn"]}}
    if "head" in collection:  # Among the parameters, that is.
        unrolled["head"] = collection["head"]
        unrolled["stem"]["conv1"] = collection["stem_conv"]
    for stage, depth in enumerate(depths):
        blocks = collection[f"stage{stage}"]
        unrolled[block_name(stage, 0)] = blocks["first"]
        for number in range(1, depth):
            unrolled[block_name(stage, number)] = jax.tree.map(
                lambda leaf, i=number - 1: leaf[i], blocks["rest"]
            )
    return unrolled
