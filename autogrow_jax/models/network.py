"""Networks that can grow: a stem, stages of stacked blocks, a head (PAPER: "Networks").

`build_network` makes a linen module from a family's name and a tuple of depths. Its variables hold
for every stage `first` (the block that changes size and width) and `rest` (all others, every leaf
with a leading axis of depth - 1), so that growth adds an entry to an axis and renames nothing.
"""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from autogrow_jax import derivatives, native
from autogrow_jax.errors import UserError
from autogrow_jax.models.chain import find_chain, run_chain
from autogrow_jax.models.families import Family, get_family
from autogrow_jax.models.layers import KERNEL_INITS, XLA, BlockOptions, ConvBN, conv
from autogrow_jax.models.stack import num_slots, run_stack

STEMS = SMALL, IMAGENET = ("small", "imagenet")  # What `stem` takes.
DTYPES = ("float32", "bfloat16", "float16")


class Stage(nn.Module):
    """`depth` blocks at one feature-map size, all but the first stacked."""

    family: Family
    index: int
    depth: int
    options: BlockOptions
    remat: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, live_depth: jax.Array | None = None):
        features = self.family.widths[self.index]
        make_block = partial(self.family.block, features=features, options=self.options)
        x = make_block(stride=1 if self.index == 0 else 2, name="first")(x, train)

        block = make_block(stride=1, parent=None)
        like = jax.ShapeDtypeStruct(x.shape, x.dtype)
        params = self._stacked("params", block, like)
        stats = self._stacked("batch_stats", block, like)

        def apply(params, stats, x):
            variables = {"params": params, "batch_stats": stats}
            if not train:
                return block.apply(variables, x, False), stats
            y, updated = block.apply(variables, x, True, mutable=["batch_stats"])
            return y, updated.get("batch_stats", stats)

        x, stats = self._run(block, apply, params, stats, x, train, live_depth)
        if stats and self.is_mutable_collection("batch_stats") and not self.is_initializing():
            self.put_variable("batch_stats", "rest", stats)
        return x

    def _run(self, block, apply, params, stats, x, train, live_depth):
        """Runs blocks 2 to `live_depth`."""
        depth = None if live_depth is None else jnp.minimum(live_depth, self.depth) - 1
        is_native = self.options.is_native
        chain = find_chain(block) if is_native and not self.remat else None
        if chain is not None and native.is_supported(x, (1, 1, 1, 1), (1, 1)):
            return run_chain(
                chain, params, stats, x, depth, train, lambda *given: run_stack(apply, *given)[0]
            )
        policy = jax.checkpoint_policies.save_only_these_names(native.KEPT)
        apply = jax.checkpoint(apply, policy=None if self.remat else policy)
        empty = native.empty if is_native else jnp.zeros
        return run_stack(apply, params, stats, x, depth, empty)

    def _stacked(self, collection: str, block: nn.Module, like: jax.ShapeDtypeStruct):
        """The variables of blocks 2 to depth, leaves [depth - 1, ...]."""
        num_blocks = self.depth - 1

        def init(key):
            # fold_in, not split: a block starts the same whatever the depth.
            def one(number):
                variables = block.lazy_init(jax.random.fold_in(key, number), like, False)
                return variables.get(collection, {})

            if not num_blocks:  # Not every kind of key can be mapped over none.
                shapes = jax.eval_shape(one, 0)
                return jax.tree.map(lambda a: jnp.zeros((0, *a.shape), a.dtype), shapes)
            return jax.vmap(one)(jnp.arange(num_blocks))

        if self.is_initializing():
            if collection == "params":
                return self.param("rest", init)
            stats = init(jax.random.key(0))  # Running statistics do not depend on the key.
            return self.variable(collection, "rest", lambda: stats).value if stats else {}
        tree: dict[str, Any] = self.get_variable(collection, "rest", {})
        found = num_slots(tree) if tree else 0
        if found != num_blocks and (tree or collection == "params"):
            raise UserError(
                f"stage {self.index} was built with {self.depth} blocks, its {collection} hold"
                f" {found + 1}; build the network with the depths the variables were made for"
            )
        return tree


class Network(nn.Module):
    """A convolutional network of a family; made by `build_network`.

    Calling it maps images [N, H, W, image_channels] to logits [N, num_classes] in float32.
    """

    family: Family
    depths: tuple[int, ...]
    num_classes: int
    image_channels: int
    stem: str
    options: BlockOptions
    remat: bool

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, live_depths: jax.Array | None = None
    ) -> jax.Array:
        """Computes logits.

        Args:
          images: float [N, H, W, image_channels].
          train: normalise by the batch's statistics and update the running ones, which needs
            `mutable=["batch_stats"]`.
          live_depths: int32 [num_stages], blocks of each stage to run, at most all; None for all.

        Raises UserError for images of another shape and variables of other depths.
        """
        if images.ndim != 4 or images.shape[-1] != self.image_channels:
            raise UserError(
                f"images have shape {images.shape}; this network takes"
                f" [N, H, W, {self.image_channels}]"
            )
        x = self._stem(jnp.asarray(images, self.options.dtype), train)
        for index, depth in enumerate(self.depths):
            stage = Stage(self.family, index, depth, self.options, self.remat, name=f"stage{index}")
            x = stage(x, train, None if live_depths is None else live_depths[index])
            self.sow("intermediates", f"stage{index}_output", x)
        # The mean over pixels in float32: bfloat16 would round it to three digits.
        x = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        return nn.Dense(
            self.num_classes,
            kernel_init=KERNEL_INITS[self.options.kernel_init],
            bias_init=self.options.bias_init(x.shape[-1]),
            name="head",
        )(x)

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        width = self.family.stem_width
        size, stride = (7, 2) if self.stem == IMAGENET else (3, 1)
        if self.family.batch_norm:
            x = ConvBN(self.options, ("stem_conv", "stem_bn"), width, size, stride)(x, train)
        else:
            x = nn.relu(conv(self.options, width, size, stride, x.shape[-1], name="stem_conv")(x))
        if self.stem == IMAGENET:
            x = derivatives.frame(x)  # Zeros are the least behind ReLU.
            if train:
                x = derivatives.max_pool(x)
            else:
                x = nn.max_pool(x, window_shape=(3, 3), strides=(2, 2))
        return x


def rest_block(network: Network, stage: int) -> nn.Module:
    """Makes the block that growth appends to a stage: unbound, called as block(x, train)."""
    family = network.family
    return family.block(features=family.widths[stage], options=network.options, parent=None)


def build_network(
    family: str | Family,
    depths: Sequence[int],
    num_classes: int = 10,
    image_channels: int = 3,
    *,
    stem: str = SMALL,
    dtype: Any = jnp.float32,
    bn_scale_init: str = "ones",
    kernel_init: str = "torch",
    remat: bool = False,
    convolution: str = XLA,
) -> Network:
    """Builds the network of a family with the given depths, a linen module.

    Args:
      family: a name in `FAMILIES`, such as "plain3" or "basic4", or that of another network.
      depths: blocks in each stage, at least one each, as many numbers as the family has stages.
      num_classes, image_channels: width of the logits, channels of the images.
      stem: "small" (3x3 convolution) or "imagenet" (7x7, stride 2; 3x3 max-pooling, stride 2).
      dtype: of the computation, one of `DTYPES`; what is learnt stays float32.
      bn_scale_init, kernel_init, convolution: as of `BlockOptions`.
      remat: keep only the input of each stacked block for the gradient and compute the block
        again; otherwise the outputs of its convolutions are kept too.

    Raises UserError for an unknown family, option or stem, and depths that do not fit the family.

    >>> network = build_network("plain3", depths=(2, 1, 1), image_channels=1)
    >>> variables = network.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    >>> network.apply(variables, jnp.zeros((5, 8, 8, 1))).shape
    (5, 10)
    """
    family = get_family(family)
    depths = family.check_depths(depths)
    if stem not in STEMS:
        raise UserError(f"stem is {stem!r}; choose one of {', '.join(STEMS)}")
    if num_classes < 1 or image_channels < 1:
        raise UserError(
            f"num_classes {num_classes} and image_channels {image_channels} must be at least 1"
        )
    options = BlockOptions(_dtype(dtype), bn_scale_init, kernel_init, convolution)
    options.check()
    return Network(family, depths, num_classes, image_channels, stem, options, remat)


def _dtype(given: Any) -> jnp.dtype:
    with suppress(TypeError):
        if (dtype := jnp.dtype(given)).name in DTYPES:
            return dtype
    raise UserError(f"dtype is {given!r}; choose one of {', '.join(DTYPES)}")


def num_params(variables: Any) -> int:
    """Counts the trainable parameters in a tree of variables."""
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
