"""scikit-learn's digits: 1,797 real images that come with an installed package, no download."""

import numpy as np

from autogrow_jax.data.types import Source, Split


def read_digits() -> Source:
    """The UCI handwritten digits, uint8 [1797, 8, 8, 1]; pixels 0..16 scaled to 0..255.

    They come without a test part; the loader takes one out, the same for every seed.
    """
    from sklearn.datasets import (
        load_digits,
    )  # Half a second to import: only who asks pays.

    pixels, labels = map(np.asarray, load_digits(return_X_y=True))
    images = np.rint(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    part = Split(images, labels.astype(np.int32))
    return Source(
        part,
        None,
        None,
        tuple(str(digit) for digit in range(10)),
        "scikit-learn's digits",
    )
