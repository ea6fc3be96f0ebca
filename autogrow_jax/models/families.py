"""What the names of networks stand for (PAPER: "Networks"); anyone may add one."""

from collections.abc import Callable, Iterable
from functools import partial
from numbers import Integral
from typing import Any, NamedTuple

import flax.linen as nn

from autogrow_jax.errors import Registry, UserError
from autogrow_jax.models import blocks


class Family(NamedTuple):
    """What a network's name stands for.

    Attributes:
      block: makes a block from (features=, stride=, options=), see `blocks`; hashable.
      widths: output channels of each stage.
      stem_width: channels of the stem.
      learning_rate: the rate growth starts with (PAPER: 0.1 residual, 0.01 plain).
      residual: whether a block adds to its input; decides how initialisers start a new block.
      last_bn: name of the residual branch's last batch normalisation, "" without one.
      batch_norm: whether batch normalisation follows each convolution, the stem's too.
      name: what it is registered as.
      identity: which of a block's parameters are zero where it is the identity: names of leaves or
        of what holds them, such as "layer_scale" or "branch/conv2". By default, of a residual
        block, those of `last_bn`; a plain one becomes the identity by its kernels.
      initializer: how runs start a new block unless their config says; see `INITIALIZERS`.
    """

    block: Callable[..., nn.Module]
    widths: tuple[int, ...]
    stem_width: int
    learning_rate: float
    residual: bool
    last_bn: str = ""
    batch_norm: bool = True
    name: str = ""
    identity: str | tuple[str, ...] = ()
    initializer: str = "gaussian"

    @property
    def zeros(self) -> tuple[tuple[str, ...], ...]:
        """What `identity` names, as paths; none of a plain block."""
        given = (self.identity,) if isinstance(self.identity, str) else self.identity
        names = [name for name in given if name] or ([self.last_bn] if self.residual else [])
        return tuple(tuple(name.split("/")) for name in names)

    def check_depths(self, depths: Any) -> tuple[int, ...]:
        """Returns depths as Python's whole numbers; UserError where they do not fit the stages."""
        depths = tuple(depths) if isinstance(depths, Iterable) else (depths,)
        stages = len(self.widths)
        if len(depths) != stages or not all(isinstance(d, Integral) and int(d) > 0 for d in depths):
            raise UserError(
                f"depths {depths} do not fit {self.name!r}: give {stages} whole numbers of at"
                f" least 1, one for each stage, such as {(1,) * stages}"
            )
        return tuple(int(depth) for depth in depths)  # NumPy's would not do for JSON.


FAMILIES: Registry[Family] = Registry("network family")


def register_family(name: str, family: Family) -> None:
    """Adds a family of one's own to the names; UserError where its name is taken.

    Networks hold the family itself: those that are built stay as they are.
    """
    names = family.identity if isinstance(family.identity, str) else tuple(family.identity)
    own = family._replace(widths=tuple(family.widths), name=name, identity=names)
    FAMILIES.register(name, own)


def get_family(family: str | Family) -> Family:
    """Looks a family up by name; UserError names the nearest one where there is none."""
    return family if isinstance(family, Family) else FAMILIES.find(family)


_NARROW, _WIDE = (16, 32, 64), (64, 128, 256, 512)
_WIDEST = tuple(4 * width for width in _WIDE)

_plain = partial(Family, learning_rate=0.01, residual=False, initializer="morphism")
_residual = partial(Family, learning_rate=0.1, residual=True, initializer="morphism")

register_family("basic3", _residual(blocks.BasicBlock, _NARROW, 16, last_bn="bn2"))
register_family("plain3", _plain(blocks.PlainBlock, _NARROW, 16))
register_family("basic4", _residual(blocks.BasicBlock, _WIDE, 64, last_bn="bn2"))
register_family("plain4", _plain(blocks.PlainBlock, _WIDE, 64))
register_family("bottleneck4", _residual(blocks.BottleneckBlock, _WIDEST, 64, last_bn="bn3"))
register_family("plain3_nobn", _plain(blocks.PlainBlockNoBN, _NARROW, 16, batch_norm=False))
register_family("plain4_nobn", _plain(blocks.PlainBlockNoBN, _WIDE, 64, batch_norm=False))
register_family("switch3", _residual(blocks.SwitchBlock, _NARROW, 16, last_bn="bn2"))
