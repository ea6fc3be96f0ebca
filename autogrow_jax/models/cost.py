"""What a tuple of depths costs: parameters and multiply-adds, by arithmetic on shapes alone.

All blocks of a stage but the first are alike, so that cost is affine in depths: that of one block
in each stage, and that of a further block as often as there is one. These pieces are traced once
for a network and an image shape, and what they multiply is counted, whatever blocks they hold.
"""

from collections.abc import Sequence
from functools import lru_cache, partial
from numbers import Integral
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from autogrow_jax.errors import UserError
from autogrow_jax.macs import count_macs
from autogrow_jax.models.layers import XLA
from autogrow_jax.models.network import Network, Stage, num_params, rest_block


class Cost(NamedTuple):
    """What a network, or a part of one, takes.

    Attributes:
      num_params: trainable parameters.
      macs: multiply-adds of evaluating one image, forward, as the literature counts them: of
        convolutions, on padding too, and of matrix products; all else counts nothing.
    """

    num_params: int
    macs: int

    @property
    def flops(self) -> int:
        """Floating-point operations of `macs`: a multiplication and an addition each."""
        return 2 * self.macs


class PieceCosts(NamedTuple):
    """The parts that networks of a family are put together from, at one image shape."""

    stem_and_head: Cost
    first: tuple[Cost, ...]  # The first block of each stage.
    rest: tuple[Cost, ...]  # Any further one; what growth by one block adds.

    def stage(self, index: int, depth: int) -> Cost:
        """The cost of stage `index` with `depth` blocks."""
        pairs = zip(self.first[index], self.rest[index], strict=True)
        return Cost(*(first + (depth - 1) * further for first, further in pairs))


def estimate_cost(
    network: Network, image_shape: Sequence[int], depths: Sequence[int] | None = None
) -> Cost:
    """Counts parameters and multiply-adds exactly; nothing is compiled, no array is made.

    The first call for a network and an `image_shape` (H, W, C) traces its pieces; other `depths`
    (by default the network's) are then sums.

    Raises UserError for depths that do not fit the network, and as `piece_costs`.

    >>> from autogrow_jax.models import build_network
    >>> estimate_cost(build_network("basic3", (3, 3, 3)), (32, 32, 3))
    Cost(num_params=272474, macs=40813184)
    """
    pieces = piece_costs(network, image_shape)
    depths = network.depths if depths is None else network.family.check_depths(depths)
    stages = [pieces.stage(index, depth) for index, depth in enumerate(depths)]
    return Cost(*map(sum, zip(pieces.stem_and_head, *stages, strict=True)))


def piece_costs(network: Network, image_shape: Sequence[int]) -> PieceCosts:
    """Counts what is the same at all depths of `network`, for an `image_shape` (H, W, C).

    Raises UserError for an image shape that does not fit the network, and as `macs.count_macs`.
    """
    shape = tuple(image_shape)
    fits = len(shape) == 3 and shape[2] == network.image_channels
    if not fits or not all(isinstance(size, Integral) and size >= 1 for size in shape):
        raise UserError(
            f"image_shape is {shape}; this network takes (H, W, {network.image_channels}), pixels"
            " and channels of one image"
        )
    # The package's own convolutions hide what they multiply; it is the same.
    options = network.options._replace(convolution=XLA)
    seed = network.clone(depths=(1,) * len(network.depths), options=options)
    return _piece_costs(seed, tuple(map(int, shape)))


@lru_cache(maxsize=128)
def _piece_costs(network: Network, shape: tuple[int, ...]) -> PieceCosts:
    """The pieces of a network of one block in each stage."""
    images = jax.ShapeDtypeStruct((1, *shape), "float32")
    init = partial(
        network.init, mutable=True, capture_intermediates=lambda _, name: name == "_stem"
    )
    variables = jax.eval_shape(init, jax.eval_shape(lambda: jax.random.key(0)), images)
    outputs = variables.pop("intermediates")
    (x,), first, rest = outputs["_stem"], [], []
    for index in range(len(network.depths)):
        name = f"stage{index}"
        stage = Stage(network.family, index, 1, network.options, network.remat)
        own = {part: tree[name] for part, tree in variables.items() if name in tree}
        first.append(_cost(stage, own, x))
        (x,) = outputs[f"{name}_output"]
        stacked = {part: tree["rest"] for part, tree in own.items() if "rest" in tree}
        block = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), stacked)
        rest.append(_cost(rest_block(network, index), block, x))
    whole, stages = _cost(network, variables, images), map(sum, zip(*first, strict=True))
    stem_and_head = Cost(*(a - b for a, b in zip(whole, stages, strict=True)))
    return PieceCosts(stem_and_head, tuple(first), tuple(rest))


def _cost(module: nn.Module, variables: Any, x: jax.ShapeDtypeStruct) -> Cost:
    """The cost of `module(x, train=False)`."""
    macs = count_macs(lambda variables, x: module.apply(variables, x, False), variables, x)
    return Cost(num_params(variables), macs)
