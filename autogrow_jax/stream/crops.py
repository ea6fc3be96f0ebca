"""Which box of a photograph is looked at: at random to train on, in the centre to evaluate."""

import math
from functools import partial

import numpy as np

from autogrow_jax.files import Box, Choose

# Of 256 pixels, to which the shorter side is resized, ImageNet's evaluation keeps 224.
_MARGIN = 256 / 224
# Parts of the area and ratios of width to height that a random box may have.
_AREAS, _RATIOS = (0.08, 1.0), (3 / 4, 4 / 3)
_TRIES = 10


def resized_side(size: int) -> int:
    """What the shorter side is resized to before the centre of `size` pixels is cropped.

    >>> resized_side(224)
    256
    """
    return round(size * _MARGIN)


def centre_box(height: int, width: int, *, size: int, resized: int) -> Box:
    """The box of whole pixels that is left of an image after a resize and a centre crop.

    The shorter side becomes `resized`, the longer one is rounded down, and so many pixels are cut
    off on each side that `size` by `size` are left.
    """
    short = min(height, width)
    rows, columns = resized * height // short, resized * width // short
    top, left = round((rows - size) / 2), round((columns - size) / 2)
    y, x = height / rows, width / columns
    return left * x, top * y, (left + size) * x, (top + size) * y


def random_box(height: int, width: int, *, draw: np.random.Generator) -> Box:
    """A box of a random part of the area and of a random shape, at a random place.

    Between 8 and 100 % of the area and 3:4 to 4:3 in shape, the logarithm of which is uniform, as
    ImageNet's nets are trained by custom. Where ten draws do not fit, the largest centred box of
    such a shape.
    """
    for _ in range(_TRIES):
        area = height * width * draw.uniform(*_AREAS)
        ratio = math.exp(draw.uniform(math.log(_RATIOS[0]), math.log(_RATIOS[1])))
        columns, rows = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < columns <= width and 0 < rows <= height:
            left, top = draw.integers([width - columns + 1, height - rows + 1]).tolist()
            return left, top, left + columns, top + rows
    columns = min(width, max(1, round(height * _RATIOS[1])))
    rows = min(height, max(1, round(width / _RATIOS[0])))
    left, top = (width - columns) // 2, (height - rows) // 2
    return left, top, left + columns, top + rows


def draw_box(key: int, row: int) -> Choose:
    """How the random box of image number `row` is chosen in the epoch of `key`, 64 bits.

    It depends on these two alone: not on the image's place in the epoch or on who decodes it.
    """
    words = np.array([key, row], np.uint64)
    return partial(random_box, draw=np.random.Generator(np.random.Philox(key=words)))
